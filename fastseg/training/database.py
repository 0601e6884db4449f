"""Optuna's database of a search, tune.db: SQLite, which no worker uses."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ModelError, brief
from .space import Choice, Space, stored
from .trials import Outcome

DATABASE = "tune.db"
# Trials that are drawn at random before the sampler has a model of the space: Optuna's default.
STARTUP = 10
LOCK_SECONDS = 10  # that another program, such as a dashboard, may keep the database locked
RECIPE, SECONDS, STATE, PROBLEM, TWIN = "recipe", "seconds", "state", "problem", "same_as"


def require_optuna() -> None:
    """Raise `ModelError` unless Optuna is installed."""
    if find_spec("optuna") is None:
        raise ModelError(
            "fastseg tune needs Optuna; install the extra tune: pip install 'fastseg[tune]'",
            "no-optuna",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log and its warnings about experimental arguments."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Raise `ModelError` for a database that is damaged or locked."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with quiet():
            yield
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError) as error:
        cause = brief(error.__cause__ or error)
        if "locked" in cause:
            raise ModelError(
                f"{file}: another program keeps it locked; close it", "locked-search"
            ) from None
        raise ModelError(
            f"{file}: cannot be used ({cause}); remove it to search again, or choose another --out",
            "damaged-search",
        ) from error


class Database:
    """The trials of one search, in order of their numbers."""

    def __init__(self, file: Path, space: Space, seed: int):
        import optuna
        from sqlalchemy.pool import NullPool

        self.file, self.seed = file, seed
        self.distributions: dict[str, Any] = {
            name: optuna.distributions.CategoricalDistribution([*map(stored, part.values)])
            if isinstance(part, Choice)
            else optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
            for name, part in space.items()
        }
        connect = partial(sqlite3.connect, file, timeout=LOCK_SECONDS, check_same_thread=False)
        with _explained(file):
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{DATABASE}", {"creator": connect, "poolclass": NullPool}
            )
            self.study = optuna.create_study(
                storage=storage,
                study_name="tune",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.NopPruner(),  # the workers prune
            )

    def begin(self, recipe: Mapping[str, Any] | None) -> int:
        """Queue the recipe in a new search, else the interrupted trials; return how many."""
        from optuna.trial import TrialState

        with _explained(self.file):
            known = self.study.get_trials(deepcopy=False)
            if not known and recipe is not None:
                self.study.enqueue_trial(dict(recipe), user_attrs={RECIPE: True})
            running = [trial for trial in known if trial.state == TrialState.RUNNING]
            for trial in running:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            return len(running)

    def ask(self) -> Any:
        """Return the next trial of Optuna. Its sampler's seed is of this trial alone.

        So that a search that was interrupted draws what it would have drawn without.
        """
        import optuna

        with _explained(self.file):
            count = len(self.done()) + len(self.running())
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.seed + count,
                n_startup_trials=STARTUP,
                multivariate=True,
                constant_liar=True,
                warn_independent_sampling=False,
            )
            return self.study.ask(self.distributions)

    def tell(self, trial: Any, outcome: Outcome, twin: int | None = None) -> None:
        """Store the outcome of a trial."""
        from optuna.trial import TrialState

        with _explained(self.file):
            for name, value in (
                (SECONDS, round(outcome.seconds, 1)),
                (STATE, outcome.state),
                (PROBLEM, outcome.problem or None),
                (TWIN, twin),
            ):
                if value is not None:
                    trial.set_user_attr(name, value)
            for epoch, score in enumerate(outcome.course):
                trial.report(score, epoch)
            if outcome.state == "complete":
                self.study.tell(trial, outcome.value)
            elif outcome.state == "failed" or not outcome.course:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, state=TrialState.PRUNED)

    def done(self) -> list[Any]:
        """Return the trials that have an outcome; interrupted ones have none."""
        with _explained(self.file):
            trials = self.study.get_trials(deepcopy=False)
        return [one for one in trials if one.state.is_finished() and STATE in one.user_attrs]

    def running(self) -> list[Any]:
        """Return the trials that workers have."""
        from optuna.trial import TrialState

        with _explained(self.file):
            return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def complete(self) -> list[Any]:
        """Return the trials with a value, best first; of equal ones, the first one."""
        found = [trial for trial in self.done() if trial.user_attrs[STATE] == "complete"]
        return sorted(found, key=lambda trial: (-trial.value, trial.number))

    def importance(self) -> dict[str, float]:
        """Return how much each option explains of the differences between complete trials.

        Shares whose sum is 1, by fANOVA (Hutter et al., 2014), largest first; {} if there are too
        few different trials.
        """
        import optuna

        complete = self.complete()
        if len({trial.value for trial in complete}) < 2:
            return {}
        with _explained(self.file), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
            memory = optuna.create_study(direction="maximize")
            memory.add_trials(complete)
            return dict(optuna.importance.get_param_importances(memory, evaluator=evaluator))


def course_of(trial: Any) -> list[float]:
    """Return the scores of a trial by epoch."""
    return [value for _, value in sorted(trial.intermediate_values.items())]

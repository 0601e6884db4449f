"""The course of a search: which trial comes next, how much time is left, what was found."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ..engines.base import Engine
from ..errors import ModelError
from ..tasks import Task
from ..utils.progress import bar
from .database import PROBLEM, RECIPE, SECONDS, STATE, Database, course_of
from .space import Setting, Space, setting_of
from .trials import Outcome, Trial, Trials

log = logging.getLogger(__name__)

# Seconds of a fit beside its training: export, ONNX, evaluation, pictures. Measured on 2 cores for
# small networks, rounded up.
FIT_SECONDS = 12.0
# By how much longer the comparison may take than planned: the images are scored once more at its
# end, and on a busy machine a comparison of 360 s took 430 s.
SLACK = 1.25
LEAST_LEFT = 0.5  # share of a usual trial's time for which a new trial is begun: many are pruned


@dataclass
class Clock:
    """The time of a whole tune: of the search, and of the comparison after it.

    `growth` is the factor by which a final fit has more images than a trial.
    """

    budget: float | None
    seeds: int
    growth: float
    side_by_side: int
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """The seconds left for all of it."""
        return math.inf if self.budget is None else self.budget - (time.monotonic() - self.began)

    def comparison(self, recipe: float, best: float, seeds: int | None = None) -> float:
        """Return the seconds of the final fits, from those of two trials."""
        seeds = seeds or self.seeds
        each = (recipe + best) / 2 * self.growth * SLACK + FIT_SECONDS
        return each * math.ceil(2 * seeds / self.side_by_side)

    def largest_trial(self, recipe: float | None) -> float:
        """Return how long a trial may take so that it can be compared with the recipe afterwards.

        `recipe` are the seconds of the recipe's trial; None: this one is the first.
        """
        rounds = math.ceil(2 * self.seeds / self.side_by_side)
        left, growth = self.left - rounds * FIT_SECONDS, rounds * self.growth * SLACK
        if recipe is None:
            return left / (1 + growth)
        return (left - recipe * growth / 2) / (1 + growth / 2)

    def enough_for(self, trial: float) -> int:
        """Return the budget that one trial of these seconds, and the comparison, need."""
        return math.ceil(trial + self.comparison(trial, trial))


@dataclass
class Search:
    """A search that runs: `run` trains trials until there are `trials`, or the time is over."""

    task: Task
    space: Space
    database: Database
    clock: Clock
    trials: int

    def run(self, work: Trials, engine: Engine) -> None:
        """Train trials on an engine. Raises `ModelError` if the recipe itself cannot be trained."""
        asked: dict[int, Any] = {}
        with bar() as progress:
            shown = progress.add_task("trials", total=self.trials)
            for _, outcome in engine.run_long(work, self._jobs(asked)):
                trial = asked.pop(outcome.number)
                self._require_recipe(trial, outcome)
                self.database.tell(trial, outcome)
                done = self.database.done()
                progress.update(shown, completed=len(done))
                self._say(outcome, setting_of(trial.params, self.space), len(done))

    def _jobs(self, asked: dict[int, Any]) -> Iterator[Trial]:
        while len(self.database.done()) + len(asked) < self.trials:
            seconds = self._seconds()
            if seconds is not None and seconds < LEAST_LEFT * self._usual():
                log.info("the time that is left is for the comparison: the search ends")
                return
            trial = self.database.ask()
            setting = setting_of(trial.params, self.space)
            if twin := self._twin(setting):
                self.database.tell(trial, _outcome_of(twin, trial.number), twin.number)
                continue
            asked[trial.number] = trial
            courses = [course_of(one) for one in self.database.complete()]
            is_recipe = RECIPE in trial.user_attrs
            yield Trial(trial.number, setting, courses, seconds, not is_recipe)

    def _twin(self, setting: Setting) -> Any | None:
        """Return a trial of the same setting: the same seed would give the same result."""
        return next(
            (one for one in self.database.done() if setting_of(one.params, self.space) == setting),
            None,
        )

    def _seconds(self) -> float | None:
        """Return how long the next trial may take; None: as long as it does."""
        if self.clock.budget is None:
            return None
        complete = self.database.complete()
        if not complete:
            seconds = self.clock.largest_trial(None)
            if seconds <= 0:
                raise self._too_short(1.0)
            return seconds
        recipe = (self.recipe_trial() or complete[0]).user_attrs[SECONDS]
        best = complete[0].user_attrs[SECONDS]
        # It may become the best one, or not: the comparison must fit in either case.
        return min(
            self.clock.largest_trial(recipe),
            self.clock.left - self.clock.comparison(recipe, best),
        )

    def _usual(self) -> float:
        times = [one.user_attrs[SECONDS] for one in self.database.complete()]
        return statistics.median(times) if times else 0.0

    def recipe_trial(self) -> Any | None:
        """Return the trial of the recipe, if it is complete."""
        return next((one for one in self.database.complete() if RECIPE in one.user_attrs), None)

    def _require_recipe(self, trial: Any, outcome: Outcome) -> None:
        if RECIPE not in trial.user_attrs or outcome.state == "complete":
            return
        if outcome.state == "time":
            raise self._too_short(outcome.needed or outcome.seconds)
        raise ModelError(
            f"the task's own recipe cannot be trained ({outcome.problem}); correct it first, or "
            "give other --epochs, --size or --weights",
            "recipe-failed",
        )

    def _too_short(self, trial: float) -> ModelError:
        return ModelError(
            f"--time-budget: {self.clock.budget:.1f} s are left after the start, one trial takes "
            f"about {trial:.0f} s, and with the comparison over {self.clock.seeds} seeds at least "
            f"{self.clock.enough_for(trial)} s are needed; give more, or a smaller --size, "
            "--epochs or --seeds",
            "time-budget",
        )

    def best(self) -> Any:
        """Return the best trial. Raises `ModelError` if none is complete."""
        complete = self.database.complete()
        if complete:
            return complete[0]
        done = self.database.done()
        problem = done[-1].user_attrs.get(PROBLEM, "") if done else ""
        if done and done[-1].user_attrs[STATE] == "time":
            raise self._too_short(done[-1].user_attrs[SECONDS])
        raise ModelError(
            f"{self.database.file}: no trial was trained to the end; the last one said: {problem}",
            "search-failed",
        )

    def _say(self, outcome: Outcome, setting: Setting, done: int) -> None:
        figure, complete = self.task.main_figure, self.database.complete()
        found = (
            f"{figure} {outcome.value:.4f}"
            if outcome.value is not None
            else f"{outcome.state}: {outcome.problem}"
        )
        best = (
            f"; best {complete[0].value:.4f} (trial {complete[0].number + 1})" if complete else ""
        )
        left = "" if self.clock.budget is None else f"; {_minutes(self.clock.left)} left in all"
        log.info(
            "trial %d, %d of %d: %s, %.0f s (%s)%s%s",
            outcome.number + 1,
            done,
            self.trials,
            found,
            outcome.seconds,
            shown(setting),
            best,
            left,
        )


def shown(setting: Setting) -> str:
    """Return a setting as one line."""
    return ", ".join(
        f"{name} {'x'.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in setting.items()
    )


def _minutes(seconds: float) -> str:
    return f"{max(0.0, seconds):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _outcome_of(trial: Any, number: int) -> Outcome:
    """Return the outcome of an earlier trial for another one of the same setting."""
    attributes = trial.user_attrs
    value = trial.value if attributes[STATE] == "complete" else None
    found = Outcome(number, attributes[STATE], 0.0, value, course_of(trial))
    return replace(found, problem=attributes.get(PROBLEM, ""))

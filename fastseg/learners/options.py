"""The options of a fit, in one place: name, type, default, range and help of each. No torch here.

From the fields of `FitOptions` derive the options of the command line, the signatures of
`fastseg.fit` and `fastseg.learner`, the values that `fastseg.study` can vary, what an interrupted
fit remembers, and the training part of a card. A new option is one field here, and the code that
uses it.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import DataError, ModelError, choose
from ..utils.choices import (
    DECODERS,
    OPTIMIZERS,
    PRECISIONS,
    TRACKERS,
    WEIGHTS,
    check_size,
    check_tracker,
    check_weights,
    loss_parts,
)

if TYPE_CHECKING:
    from ..tasks import Task
    from ..types import Recipe

# The part of a fit that an option changes: network and data, course of the training, or the run.
Part = Literal["learner", "course", "run"]
RECIPE = "the task's recipe"
AUGMENTATION = ("flip", "rotate", "zoom", "light", "colour", "cutout")
MAX_SEED = 2**32 - 1  # numpy's legacy generator takes no larger one
MAX_FOLDS = 100  # a card describes ensembles of up to 100 networks
TEACHER = 0.99  # with --unlabelled, the share of the averaged weights that a step keeps; a choice
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class WholeNumber:
    """A rule: a whole number from `low` to `high`."""

    low: int = 0
    high: int | None = None

    def __call__(self, flag: str, value: Any) -> None:
        """Raise `ModelError` for another value."""
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or value < self.low or (self.high is not None and value > self.high):
            most = "" if self.high is None else f" and at most {self.high}"
            raise ModelError(
                f"{flag} {value}: give a whole number of at least {self.low}{most}", "option-range"
            )


def _check_flag(flag: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ModelError(f"{flag} {value}: give true or false", "option-range")


class BatchSize:
    """A rule: a whole number of at least 1, or "auto"."""

    def __call__(self, flag: str, value: Any) -> None:
        """Raise `ModelError` for another value."""
        if isinstance(value, str) and value != "auto":
            raise ModelError(f"{flag} {value}: give a whole number or auto", "option-range")
        if value != "auto":
            WholeNumber(1)(flag, value)


class FoldCount(WholeNumber):
    """A rule: 0 for no folds, or 2 or more."""

    def __call__(self, flag: str, value: Any) -> None:
        """Raise `ModelError` for another value."""
        super().__call__(flag, value)
        if value == 1:
            raise ModelError(f"1 fold holds nothing out; give {flag} 2 or more", "folds")


@dataclass(frozen=True)
class Number:
    """A rule: a number from `low` to `high`."""

    low: float
    high: float

    def __call__(self, flag: str, value: Any) -> None:
        """Raise `ModelError` for another value."""
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high:
            raise ModelError(
                f"{flag} {value} is not from {self.low:g} to {self.high:g}", "option-range"
            )


@dataclass(frozen=True)
class Name:
    """A rule: a text for which `check` raises no error."""

    check: Callable[[str], object] = str

    def __call__(self, flag: str, value: Any) -> None:
        """Raise `ModelError` for another value."""
        if not isinstance(value, (str, Path)):
            raise ModelError(f"{flag} {value}: give a name, not a number", "option-name")
        self.check(str(value))


def rate_of(lr: float | str | None, default: float) -> float:
    """Return a learning rate, the default for None. Raises `ModelError` unless it is positive."""
    try:
        rate = default if lr is None else float(lr)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ModelError(
            f"learning rate '{lr}' is not a positive number; give one such as 1e-3, or auto",
            "learning-rate",
        )
    return rate


def _check_rate(flag: str, value: Any) -> None:
    if value != "auto":
        rate_of(value, math.nan)


def _check_budget(flag: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ModelError(
            "give either a number of epochs or a time budget, a positive one", "epochs-or-budget"
        )


def _check_size(flag: str, value: Any) -> None:
    if not (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(side, Integral) for side in value)
    ):
        raise DataError(f"{flag} {value}: give one side in px, or height and width", "option-range")
    check_size(value)


def _check_images(folder: str) -> None:
    from ..data.unlabelled import images_without_labels  # for this option only: it needs numpy

    images_without_labels(folder)


def random_freeze() -> ModelError:
    """Return the error for a frozen backbone with random weights."""
    return ModelError(
        "--freeze needs pretrained weights: the features of a random backbone say little; give "
        "--weights FILE or an export's folder, or leave --freeze out",
        "freeze-random",
    )


def unlabelled_in_processes() -> ModelError:
    """Return the error for images without labels and several processes."""
    return ModelError(
        "--unlabelled trains in one process only; leave --processes out", "unlabelled-processes"
    )


def _check_start(weights: str) -> None:
    if not Path(weights).is_dir():  # a folder is an export; `learner` reads its card
        check_weights(weights)


@dataclass(frozen=True)
class Option:
    """The definition of one option. `default_help` says what None means."""

    name: str
    annotation: str
    default: Any
    part: Part
    help: str
    rule: Callable[[str, Any], None]
    default_help: str | None
    unit: Literal["px", "s", "bytes"] | None
    can_vary: bool  # in a study
    in_card: bool

    @property
    def flag(self) -> str:
        """The option's name on the command line, such as "--freeze-epochs"."""
        return "--" + self.name.replace("_", "-")

    @property
    def described(self) -> str:
        """The help text, with `default_help` if there is one."""
        return f"{self.help} [default: {self.default_help}]." if self.default_help else self.help

    def check(self, value: Any) -> None:
        """Raise `FastsegError` unless the option can have this value."""
        if value is not None or self.default is not None:
            self.rule(self.flag, value)


def with_absolute_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a fit whose files and folders are found from any working folder."""
    paths = {
        name: os.path.abspath(value)
        for name in ("weights", "unlabelled")
        if (value := options.get(name)) is not None and value not in WEIGHTS
    }
    return {**options, **paths}


def _to_builtin_types(value: Any) -> Any:
    """Return a value in Python's own types, for JSON and comparisons: numbers, tuples, texts."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return tuple(_to_builtin_types(entry) for entry in value)
    return str(value) if isinstance(value, Path) else value


def _option(
    default: object,
    part: Part,
    help: str,
    rule: Callable[[str, Any], None],
    *,
    default_help: str | None = None,
    unit: str | None = None,
    can_vary: bool = True,
    in_card: bool = False,
) -> Any:
    return field(
        default=default,
        metadata={
            "part": part,
            "help": help,
            "rule": rule,
            "default_help": default_help,
            "unit": unit,
            "can_vary": can_vary,
            "in_card": in_card,
        },
    )


@dataclass(frozen=True)
class FitOptions:
    """All options of a fit. None means the task's recipe, or the default named in the help."""

    arch: str | None = _option(
        None, "learner", "Backbone: any timm name", Name(), default_help=RECIPE
    )
    decoder: str | None = _option(
        None,
        "learner",
        f"{', '.join(DECODERS[:-1])} or {DECODERS[-1]}",
        Name(lambda name: choose("decoder", name, DECODERS)),
        default_help=RECIPE,
    )
    weights: str | Path = _option(
        "auto",
        "learner",
        "auto (ImageNet, or random with a warning if out of reach), imagenet, none, a .safetensors "
        "or .pth file, or an export's folder to train on from it.",
        Name(_check_start),
    )
    epochs: int | None = _option(
        None,
        "course",
        "Epochs of the whole network",
        WholeNumber(),
        default_help=RECIPE,
        in_card=True,
    )
    lr: float | str | None = _option(
        None,
        "course",
        "Highest learning rate, or auto for the range test's",
        _check_rate,
        default_help=RECIPE,
        in_card=True,
    )
    freeze_epochs: int | None = _option(
        None,
        "course",
        "Epochs of the head alone before them, with pretrained weights",
        WholeNumber(),
        default_help=RECIPE,
        in_card=True,
    )
    freeze: bool = _option(
        False,
        "course",
        "Train the head alone in all epochs, over features that the backbone computes once.",
        _check_flag,
        in_card=True,
    )
    unlabelled: str | Path | None = _option(
        None,
        "course",
        "Folder of images without labels to learn from: what the averaged network sees in one must "
        "hold in a changed copy, too. Experimental.",
        Name(_check_images),
        default_help="none",
    )
    time_budget: float | None = _option(
        None,
        "run",
        "Total time, such as 90s, 10m or 1h, instead of --epochs: a measured step plans "
        "epochs and size.",
        _check_budget,
        unit="s",
    )
    folds: int = _option(
        0,
        "run",
        "Train this many learners, each on another part held out, and export their ensemble.",
        FoldCount(0, MAX_FOLDS),
        can_vary=False,  # no image is held out from all members of an ensemble
    )
    track: str | None = _option(
        None,
        "run",
        f"Report the training to {', '.join(TRACKERS[:-1])} or {TRACKERS[-1]}, by default in the "
        "folder runs",
        Name(check_tracker),
        default_help="none",
        can_vary=False,
    )
    ema: float | None = _option(
        None,
        "course",
        "Average the weights over training steps: the share kept at each step, such as 0.99",
        Number(0, 0.9999),
        default_help=RECIPE,
        in_card=True,
    )
    windows: float | None = _option(
        None,
        "course",
        "Share of the epochs that see windows of half the image's sides: quicker, for small "
        "objects",
        Number(0, 1),
        default_help=RECIPE,
        in_card=True,
    )
    progressive: float | None = _option(
        None,
        "course",
        "Share of the epochs that see the images at half size",
        Number(0, 1),
        default_help=RECIPE,
        in_card=True,
    )
    mixup: float | None = _option(
        None,
        "course",
        "Mix pairs of images; alpha of the beta distribution of the share, such as 0.2",
        Number(0, 10),
        default_help=RECIPE,
        in_card=True,
    )
    patience: int | None = _option(
        None,
        "course",
        "Stop after this many epochs without a better score, and keep the best weights",
        WholeNumber(),
        default_help="never",
        in_card=True,
    )
    size: int | tuple[int, int] | None = _option(
        None,
        "learner",
        "Size in px at which the model sees images",
        _check_size,
        default_help=RECIPE,
        unit="px",
    )
    bs: int | str | None = _option(
        None,
        "learner",
        "Images in a batch, of all processes together; auto: as many as the recipe's, or the "
        "largest part of them (half, a quarter, ...) that fits into memory",
        BatchSize(),
        default_help=RECIPE,
    )
    loss: str | None = _option(
        None,
        "learner",
        "ce, wce (class weights from the data), dice, focal, lovasz, tversky, or a sum such as "
        "ce+dice",
        Name(loss_parts),
        default_help=RECIPE,
    )
    opt: str | None = _option(
        None,
        "learner",
        f"{', '.join(OPTIMIZERS[:-1])} or {OPTIMIZERS[-1]}",
        Name(lambda name: choose("optimizer", name, OPTIMIZERS)),
        default_help=RECIPE,
    )
    flip: bool | None = _option(
        None,
        "learner",
        "Mirror training images left to right",
        _check_flag,
        default_help=RECIPE,
        in_card=True,
    )
    rotate: float | None = _option(
        None,
        "learner",
        "Rotate training images by up to this many degrees",
        Number(0, 180),
        default_help=RECIPE,
        in_card=True,
    )
    zoom: float | None = _option(
        None,
        "learner",
        "Scale training images by up to this share",
        Number(0, 1),
        default_help=RECIPE,
        in_card=True,
    )
    light: float | None = _option(
        None,
        "learner",
        "Change brightness and contrast of training images by up to this share",
        Number(0, 1),
        default_help=RECIPE,
        in_card=True,
    )
    colour: float | None = _option(
        None,
        "learner",
        "Change the saturation of training images by up to this share, each channel by half of it",
        Number(0, 1),
        default_help=RECIPE,
        in_card=True,
    )
    cutout: float | None = _option(
        None,
        "learner",
        "Side of a grey box laid over each training image, as a share of the image's",
        Number(0, 1),
        default_help=RECIPE,
        in_card=True,
    )
    seed: int = _option(
        42,
        "learner",
        "Seed of split, weights and augmentation.",
        WholeNumber(0, MAX_SEED),
        can_vary=False,  # a study draws its own seeds
    )
    split_seed: int | None = _option(
        None,
        "learner",
        "Seed of the split alone, where several seeds are to hold out the same images",
        WholeNumber(0, MAX_SEED),
        default_help="--seed",
        can_vary=False,
    )
    device: str | None = _option(
        None, "learner", "cpu, cuda, cuda:1, mps", Name(), default_help="the best available"
    )
    precision: str | None = _option(
        None,
        "learner",
        "float32 or bfloat16",
        Name(lambda name: choose("precision", name, PRECISIONS)),
        default_help="the faster one here",
    )
    cache: int | None = _option(
        None,
        "learner",
        "Room for decoded images, and features with --freeze, of all processes of a machine",
        WholeNumber(),
        default_help="a quarter of the machine's memory",
        unit="bytes",
    )

    def __post_init__(self) -> None:
        for name in OPTIONS:
            object.__setattr__(self, name, _to_builtin_types(getattr(self, name)))
        if isinstance(self.size, int) and not isinstance(self.size, bool):
            object.__setattr__(self, "size", (self.size, self.size))

    def check(self) -> None:
        """Raise `FastsegError` for the first value that its option cannot have."""
        for option in OPTIONS.values():
            option.check(getattr(self, option.name))

    @property
    def seed_of_split(self) -> int:
        """The seed by which images are held out."""
        return self.seed if self.split_seed is None else self.split_seed

    def augmenting(self, task: Task) -> Task:
        """Return the task with the given augmentation in its recipe, where loaders look for it."""
        given = {name: getattr(self, name) for name in AUGMENTATION}
        changed = {name: value for name, value in given.items() if value is not None}
        return replace(task, recipe=replace(task.recipe, **changed)) if changed else task

    def recipe(self, task: Task) -> Recipe:
        """Return the task's recipe with the given options in place of its own values.

        Raises `FastsegError` for values that an option cannot have, those of the task's file too.
        """
        given = {name: getattr(self, name) for name in OF_RECIPE}
        if self.freeze:  # all epochs are of the head alone
            given["freeze_epochs"] = 0
        if self.unlabelled and self.ema is None:  # the average is the teacher
            given["ema"] = task.recipe.ema or TEACHER
        if given["bs"] == "auto":  # planned when the learner is there
            given["bs"] = None
        if given["lr"] == "auto":  # found when the learner is there
            given["lr"] = None
        elif given["lr"] is not None:
            given["lr"] = float(given["lr"])
        recipe = replace(
            task.recipe, **{name: value for name, value in given.items() if value is not None}
        )
        recipe = replace(recipe, size=(recipe.size[0], recipe.size[1]))  # a list in some task files
        if recipe.decoder != task.recipe.decoder:
            recipe = replace(recipe, decoder_options={})
        for name in OF_RECIPE:
            OPTIONS[name].check(getattr(recipe, name))
        WholeNumber(1)(OPTIONS["bs"].flag, recipe.bs)  # a task's own cannot be auto
        return recipe

    def check_course(self, task: Task) -> None:
        """Raise `ModelError` where the options contradict each other or do not fit the task."""
        recipe = self.recipe(task)
        if self.time_budget is not None and self.epochs is not None:
            raise ModelError(
                "give either a number of epochs or a time budget, a positive one",
                "epochs-or-budget",
            )
        if not recipe.epochs + recipe.freeze_epochs:
            raise ModelError(
                f"--epochs {recipe.epochs} with --freeze-epochs {recipe.freeze_epochs} trains "
                "nothing; give at least one",
                "no-epoch",
            )
        if not recipe.epochs and self.weights == "none":
            raise ModelError(
                "no epoch would be trained (head-only epochs need pretrained weights); "
                "give --epochs 1 or more",
                "no-epoch",
            )
        if self.freeze:
            self._check_freeze(recipe)
        if self.unlabelled is not None:
            self._check_unlabelled(task, recipe)
        if recipe.windows and not task.has_masks:
            raise ModelError(f"{task.name} {task.purpose}: it takes no --windows", "no-windows")
        if recipe.resize != "squish" and recipe.progressive:
            raise ModelError(
                f"{task.name} images are never resampled, since that would change their labels: "
                "it takes no --progressive",
                "no-progressive",
            )

    def _check_freeze(self, recipe: Recipe) -> None:
        """Raise `ModelError` for options that cannot go with `freeze`."""
        if self.weights == "none":
            raise random_freeze()
        if self.freeze_epochs:
            raise ModelError(
                f"--freeze trains the head alone in all epochs: leave --freeze-epochs "
                f"{self.freeze_epochs} out, and give --epochs",
                "freeze-epochs",
            )
        if self.time_budget is not None:
            raise ModelError(
                "--freeze takes no --time-budget, which is planned by steps of the whole network; "
                "give --epochs",
                "freeze-budget",
            )
        if recipe.mixup:
            raise ModelError(
                f"--freeze takes no --mixup {recipe.mixup:g}: mixed images are others in each "
                "epoch, so that no features could be kept; give --mixup 0",
                "freeze-mixup",
            )

    def _check_unlabelled(self, task: Task, recipe: Recipe) -> None:
        """Raise `ModelError` for options that cannot go with `unlabelled`."""
        if not task.has_masks:
            raise ModelError(
                f"{task.name} {task.purpose}: --unlabelled is for tasks with masks",
                "unlabelled-classes",
            )
        if not recipe.ema:
            raise ModelError(
                "--unlabelled learns from the average of the weights: leave --ema 0 out",
                "unlabelled-ema",
            )
        others = {
            "--freeze": self.freeze,
            "--mixup": recipe.mixup,
            "--time-budget": self.time_budget is not None,
        }
        for flag, is_given in others.items():
            if is_given:
                raise ModelError(f"--unlabelled takes no {flag}; leave it out", "unlabelled-option")

    def in_card(self, task: Task) -> dict[str, object]:
        """Return the options of the training that a card stores; 0 for options that are None."""
        recipe = self.recipe(task)
        kept = {
            name: getattr(recipe if name in OF_RECIPE else self, name)
            for name, option in OPTIONS.items()
            if option.in_card
        }
        return {name: 0 if value is None else value for name, value in kept.items()}

    def to_json(self) -> dict[str, object]:
        """Return the options that differ from their defaults, as JSON keeps them."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != OPTIONS[name].default
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FitOptions:
        """Return the options that `to_json` returned. Raises `ValueError` for unknown names."""
        unknown = sorted(set(values) - set(OPTIONS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such option")
        return cls(**values)


def _read_option_fields() -> dict[str, Option]:
    return {
        entry.name: Option(
            name=entry.name,
            annotation=str(entry.type),
            default=entry.default,
            **entry.metadata,
        )
        for entry in fields(FitOptions)
    }


OPTIONS = _read_option_fields()
OF_RECIPE = tuple(name for name, option in OPTIONS.items() if option.default_help == RECIPE)
LEARNER_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.part == "learner")


def with_options(*names: str) -> Callable[[F], F]:
    """Show the options `names` in the signature and help of a function that has `**options`."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=OPTIONS[name].default,
                annotation=OPTIONS[name].annotation,
            )
            for name in names
        ]
        signature = signature.replace(
            parameters=[
                *(p for p in own if p.kind is not p.KEYWORD_ONLY),
                *shown,
                *(p for p in own if p.kind is p.KEYWORD_ONLY),
            ]
        )

        @wraps(function)
        def called(*args: Any, **keywords: Any) -> Any:
            signature.bind(*args, **keywords)  # raises TypeError for unknown names
            return function(*args, **keywords)

        called.__signature__ = signature  # type: ignore[attr-defined]  # `inspect.signature` reads it
        lines = [
            f"    {name}: {OPTIONS[name].described}"
            + (f" In {OPTIONS[name].unit}." if OPTIONS[name].unit else "")
            for name in names
        ]
        called.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *lines])
        return called  # type: ignore[return-value]  # it takes and returns what `function` does

    return decorate

"""Makes learners: `unet_learner` and `vision_learner` for any timm backbone.

`build_learner` makes those of tasks.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai import optimizer as optimizers

# This import adds fit_one_cycle and lr_find to Learner.
from fastai.callback.schedule import Learner
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize, get_c
from fastai.learner import Metric, defaults
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision import learner as fastai_vision

from ..checks.preflight import Tally, survey
from ..data.cache import Pixels
from ..data.channels import channel_statistics
from ..data.loaders import dataloaders, set_batch_size
from ..data.reading import RGB
from ..data.slices import is_medical, real_file
from ..data.split import Fold, splitter
from ..engines.distributed import own_device, world
from ..errors import ModelError
from ..exports.card import Card
from ..exports.read import network_of
from ..exports.record import TrainingRecord
from ..losses import Loss, class_weights
from ..metrics import figures as metrics
from ..models.backbones import check_arch, is_non_commercial, licence_of_weights
from ..models.factory import classifier, segmenter
from ..models.network import Network, Spec, parameter_groups
from ..tasks import Task
from ..types import Recipe
from ..utils import device as machine
from ..utils.choices import asked_precision
from ..utils.io import portable_path
from .batch import plan_bs
from .options import FitOptions
from .precision import training_precision

log = logging.getLogger(__name__)

OPTIMIZERS = {
    "adam": partial(optimizers.Adam, decouple_wd=False),
    "adamw": optimizers.Adam,
    "sgd": optimizers.SGD,
    "ranger": optimizers.ranger,
    "radam": optimizers.RAdam,
    "lamb": optimizers.Lamb,
    "rmsprop": optimizers.RMSProp,
}


def unet_learner(
    dls: DataLoaders,
    arch: str | Callable[..., Any],
    normalize: bool = True,
    n_out: int | None = None,
    pretrained: bool = True,
    weights: str | Path | None = None,
    config: dict[str, Any] | None = None,
    loss_func: Callable[..., Any] | None = None,
    opt_func: Callable[..., Any] = optimizers.Adam,
    lr: float = defaults.lr,
    splitter: Callable[..., Any] | None = None,
    cbs: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    path: str | Path | None = None,
    model_dir: str | Path = "models",
    wd: float | None = None,
    wd_bn_bias: bool = False,
    train_bn: bool = True,
    moms: tuple[float, ...] = (0.95, 0.85, 0.95),
    decoder: str = "unet",
    **kwargs: Any,
) -> Learner:
    """Build a segmentation `Learner`, with fastai's signature, over a timm backbone.

    The backbone must have a feature pyramid. A string `arch` is a timm name; `decoder` is one of
    `utils.choices.DECODERS`, and `kwargs` go to it. `weights` is as for the CLI ("auto",
    "imagenet", "none", a file); None means "auto" if `pretrained` else "none". A callable `arch` is
    passed to fastai's own `unet_learner` with its arguments. Raises `ModelError` for
    names, weights and options that do not fit.
    """
    common: dict[str, Any] = dict(
        loss_func=loss_func,
        opt_func=opt_func,
        lr=lr,
        splitter=splitter,
        cbs=cbs,
        metrics=metrics,
        path=path,
        model_dir=model_dir,
        wd=wd,
        wd_bn_bias=wd_bn_bias,
        train_bn=train_bn,
        moms=moms,
    )
    if not isinstance(arch, str):
        return fastai_vision.unet_learner(
            dls,
            arch,
            normalize=normalize,
            n_out=n_out,
            pretrained=pretrained,
            weights=weights,
            config=config,
            **common,
            **kwargs,
        )
    network, origin = segmenter(
        arch,
        n_out or get_c(dls),
        decoder,
        _weights(weights, pretrained),
        partial(_input_size, dls),
        **(config or {}),
        **kwargs,
    )
    return as_learner(dls, network, origin, normalize, **common)


def vision_learner(
    dls: DataLoaders,
    arch: str | Callable[..., Any],
    normalize: bool = True,
    n_out: int | None = None,
    pretrained: bool = True,
    weights: str | Path | None = None,
    loss_func: Callable[..., Any] | None = None,
    opt_func: Callable[..., Any] = optimizers.Adam,
    lr: float = defaults.lr,
    splitter: Callable[..., Any] | None = None,
    cbs: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    path: str | Path | None = None,
    model_dir: str | Path = "models",
    wd: float | None = None,
    wd_bn_bias: bool = False,
    train_bn: bool = True,
    moms: tuple[float, ...] = (0.95, 0.85, 0.95),
    **kwargs: Any,
) -> Learner:
    """Build a classification `Learner`, with fastai's signature, over any timm backbone.

    `kwargs` go to fastai's `create_timm_model` (concat_pool, lin_ftrs, ps, ...). `weights` is as
    for `unet_learner`. A callable `arch` is passed to fastai's own `vision_learner`. Raises
    `ModelError` for names, weights and options that do not fit.
    """
    common: dict[str, Any] = dict(
        loss_func=loss_func,
        opt_func=opt_func,
        lr=lr,
        splitter=splitter,
        cbs=cbs,
        metrics=metrics,
        path=path,
        model_dir=model_dir,
        wd=wd,
        wd_bn_bias=wd_bn_bias,
        train_bn=train_bn,
        moms=moms,
    )
    if not isinstance(arch, str):
        return fastai_vision.vision_learner(
            dls,
            arch,
            normalize=normalize,
            n_out=n_out,
            pretrained=pretrained,
            weights=weights,
            **common,
            **kwargs,
        )
    if kwargs.pop("cut", None) is not None:  # fastai drops it silently for timm names
        raise ModelError("cut has no meaning for timm backbones; leave it out", "no-cut")
    network, origin = classifier(arch, n_out or get_c(dls), _weights(weights, pretrained), **kwargs)
    return as_learner(dls, network, origin, normalize, **common)


def _weights(weights: str | Path | None, pretrained: bool) -> str:
    if weights is not None:
        return str(weights)
    return "auto" if pretrained else "none"


def as_learner(
    dls: DataLoaders,
    network: Network,
    origin: str,
    normalize: bool = True,
    *,
    splitter: Callable[..., Any] | None = None,
    loss_func: Callable[..., Any] | None = None,
    **options: Any,
) -> Learner:
    """Return a fastai `Learner` of `network`; it is frozen unless its weights are random."""
    if normalize and not dls.after_batch.fs.filter(lambda t: isinstance(t, Normalize)):
        dls.add_tfms([Normalize.from_stats(network.mean, network.std)], "after_batch")
    learn = Learner(
        dls,
        network,
        splitter=splitter or parameter_groups,
        loss_func=loss_func or Loss(),
        **options,
    )
    if not origin.startswith("random"):
        learn.freeze()
    return learn


class ForegroundMetric(Metric):
    """A mean over the foreground classes: counts are summed over all batches, then divided."""

    def __init__(self, key: str, classes: int, background: int | None):
        self.key, self.classes, self.background = key, classes, background
        self.reset()

    def reset(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), dtype=np.int64)

    def accumulate(self, learn: Learner) -> None:
        # `max` is much faster than `argmax` over a channel.
        predicted = learn.pred.max(dim=1).indices.to(torch.uint8).cpu().numpy()
        self.counts += metrics.confusion(learn.y.cpu().numpy(), predicted, self.classes)

    @property
    def value(self) -> float:
        return float(metrics.mean(metrics.per_class(self.counts)[self.key], self.background))

    @property
    def name(self) -> str:
        return self.key


def build_learner(
    task: Task,
    data: Path,
    options: FitOptions,
    recipe: Recipe,
    fold: Fold | None,
    card: Card | None,
) -> Learner:
    """Return the learner of options that `preparation.learner_of` has checked.

    `recipe` is the task's with these options in it; `card` is of the export that `options.weights`
    names, if it names one. Checks what only torch and timm know, and every image and label. Raises
    `FastsegError` kinds.
    """
    if card is None:
        check_arch(recipe.arch)
    device = own_device(options.device)
    machine.device_of(device)
    asked = asked_precision(options.precision)
    pixels = Pixels(task, recipe.size, options.cache)
    facts = survey(
        task,
        data,
        splitter(task, options.seed_of_split, fold, data),
        pixels.keep,
        share=(world().rank, world().size),
        gather=_of_all,
    )
    set_seed(options.seed)
    dls = dataloaders(task, data, pixels, recipe.bs, options.seed_of_split, device, fold)
    network, origin = _network(task, dls, str(options.weights), recipe, card)
    if card is None and task.channels != RGB:
        # All members of an ensemble need one normalisation: it is of all parts that train.
        items = dls.train_ds.items if fold is None else [*dls.train_ds.items, *dls.valid_ds.items]
        network.mean, network.std = channel_statistics(map(pixels.image, items))
        log.info(
            "normalisation: mean %s, std %s of the channels of %d training images",
            *(", ".join(f"{v:.3f}" for v in values) for values in (network.mean, network.std)),
            len(items),
        )
    learn = as_learner(
        dls,
        network,
        origin,
        loss_func=Loss(recipe.loss, class_weights(facts.learnt)),
        opt_func=OPTIMIZERS[recipe.opt],
        lr=task.recipe.lr,
        metrics=_metrics(task),
        path=Path("."),
    )
    # Another start, such as random weights where a download failed, would freeze other epochs.
    world().agree("weights", origin)
    spec = network.spec
    decoder = f" with decoder {spec.decoder}" if spec.decoder else ""
    log.info("network: %s%s at %dx%d px; weights: %s", spec.arch, decoder, *recipe.size, origin)
    _say_fit(spec)
    licence = card.licence if card else licence_of_weights(spec.arch, origin)
    if licence:
        level = logging.WARNING if is_non_commercial(licence) else logging.INFO
        log.log(level, "licence of the weights: %s", licence)
    learn.loss_func = learn.loss_func.to(dls.device)
    planned = None
    if options.bs == "auto":
        planned = plan_bs(
            learn,
            recipe.size,
            recipe.bs,
            asked,
            options.freeze,
            options.unlabelled is not None,
            pixels.budget - pixels.used if options.freeze else 0,
        )
        set_batch_size(dls, planned)
    epochs = recipe.epochs + recipe.freeze_epochs
    learn.model.precision, why = training_precision(learn, recipe.size, asked, epochs)
    log.info(machine.describe_plan(dls.device, why, dls.bs, pixels.budget))
    learn.record = TrainingRecord(
        task=task,
        data=os.path.abspath(data),
        size=recipe.size,
        seed=options.seed,
        loss=recipe.loss,
        opt=recipe.opt,
        bs=min(planned or recipe.bs, dls.train.n),
        weights_origin=origin,
        licence=licence,
        flip_shift=task.recipe.flip_shift,
        depth=task.depth,
        spacing=_spacing(dls),
        precision=asked,
        planned_bs=planned,
    )
    return learn


def _say_fit(spec: Spec) -> None:
    """Say where a backbone does not see images at their size."""
    fixed = spec.options.get("pyramid", {}).get("fixed")
    if fixed and "img_size" not in spec.options["pyramid"]["options"]:
        log.info("%s takes images of %dx%d px only: they are resized to it", spec.arch, *fixed)


def _of_all(tally: Tally) -> list[Tally]:
    """Return the tallies of all processes, by rank."""
    texts = world().from_all(base64.b64encode(pickle.dumps(tally)).decode())
    return [pickle.loads(base64.b64decode(text)) for text in texts]


def _network(
    task: Task, dls: DataLoaders, weights: str, recipe: Recipe, card: Card | None
) -> tuple[Network, str]:
    """Return the recipe's network, or that of an export, and where its weights come from."""
    if card is not None:
        return network_of(Path(weights), card), f"export {portable_path(weights, Path.cwd())}"
    if not task.has_masks:
        return classifier(recipe.arch, get_c(dls), weights, task.channels)
    return segmenter(
        recipe.arch,
        get_c(dls),
        recipe.decoder,
        weights,
        partial(_input_size, dls) if recipe.decoder == "fastai" else recipe.size,
        task.channels,
        **recipe.decoder_options,
    )


def _spacing(dls: DataLoaders) -> tuple[float, float] | None:
    """Return the pixel spacing in mm that all training images have, if they are medical ones."""
    images = {real_file(item.image): item.image for item in dls.train_ds.items}
    if not all(map(is_medical, images)):
        return None
    from ..data.medical import common_spacing

    return common_spacing(images.values())


def _metrics(task: Task) -> list[Any]:
    if not task.has_masks:
        return [accuracy]
    return [ForegroundMetric(key, len(task.classes), task.background) for key in ("dice", "iou")]


def _input_size(dls: DataLoaders) -> tuple[int, int]:
    """Return the (height, width) of a batch in px."""
    return tuple(dls.one_batch()[0].shape[-2:])

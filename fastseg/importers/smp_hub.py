"""A pretrained ADE20K model (150 classes) of segmentation-models-pytorch as an export."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, ExportError, ModelError, TaskError, brief
from ..exports.card import CARD, read_card, seal
from ..exports.folder import replacing
from ..exports.record import TrainingRecord
from ..exports.write import write_export
from ..tasks import SegmentationTask, Task, get
from ..utils.choices import check_size
from ..utils.hub import offline_unless_reachable
from ..utils.imports import importing
from ..utils.io import read_json
from ..utils.locks import write_lock

if TYPE_CHECKING:
    from fastai.learner import Learner

    from ..models.network import Network, Spec

# The default: a model whose licence allows any use, unlike SegFormer's
FREE = "smp-hub/upernet-convnext-tiny"
ADE20K_CLASSES = 150
SIZE = 512  # px, for models without a stated size: the usual crop size for ADE20K
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
TRANSFORMS = "albumentations_config_eval.json"
NON_COMMERCIAL = (
    "NVIDIA Source Code License for SegFormer: research and evaluation only, no commercial use"
)

# Entries of a config that are not options of the decoder's class here
NOT_OPTIONS = {
    "_model_class",
    "encoder_name",
    "encoder_weights",
    "classes",
    "in_channels",
    "activation",
    "aux_params",
}


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model that `save_pretrained` wrote."""

    config: Path
    weights: Path
    transforms: Path | None  # its validation pipeline
    readme: Path | None  # its page on the hub


@dataclass(frozen=True)
class Adopted:
    """The result of `adopt`: the export, a description of the model, the licence of its weights."""

    export: Path
    model: str
    licence: str


def adopt(
    task: str | Task = "surfaces", source: Path | str = FREE, out: Path | str | None = None
) -> Adopted:
    """Write an export of `task` from a ready ADE20K model; `out` is by default exports/TASK.

    `source` is a model of segmentation-models-pytorch as written by its `save_pretrained`: an id on
    the hub, a folder, or the safetensors file in one. Its 150 probabilities are summed into the
    task's classes by the table in tasks/surfaces.tsv. Raises `TaskError` for tasks without a known
    ready model, `ModelError` for models that cannot be adopted or reached, `ExportError` if `out`
    holds an export that was trained.
    """
    task = get(task)
    if task.name != "surfaces" or not isinstance(task, SegmentationTask):
        raise TaskError(
            f"no ready model is known for {task.name}; "
            f"adopt surfaces, or train with: fastseg fit {task.name}",
            "no-ready-model",
        )
    out = Path(out or f"exports/{task.name}")
    if (out / CARD).is_file() and not read_card(out).is_adopted:
        raise ExportError(
            f"{out}: holds an export that was trained; choose another folder with --out",
            "holds-export",
        )
    files = _find_files(str(source))
    config = read_json(files.config)
    name, licence = str(source), _licence(files, config)
    with write_lock(out), replacing(out, task) as folder:
        network = _build_network(config, files, task)
        size, network.mean, network.std = _read_transforms(files)
        card = write_export(_learner_of_network(task, network, size, name), folder)
        card.training = {"adopted_from": name}
        card.train_images, card.valid_files, card.licence = 0, [], licence
        seal(card, folder)
    return Adopted(out, f"{config['_model_class']} over {network.spec.arch}", licence)


def _find_files(source: str) -> ModelFiles:
    """Return the files of a model in a folder, or on the hub, from which they are fetched."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    if folder is None and (not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith(".")):
        raise ModelError(
            f"{source}: no such folder, and no id on the hub such as {FREE}", "no-such-source"
        )
    names = CONFIG, WEIGHTS, TRANSFORMS, README
    found = {name: folder / name for name in names} if folder else _fetch(source, names)
    config, weights, transforms, readme = (
        file if (file := found.get(name)) and file.is_file() else None for name in names
    )
    if config is None or weights is None:
        raise ModelError(
            f"{source}: has no {CONFIG if config is None else WEIGHTS}; "
            "give a model as segmentation-models-pytorch's save_pretrained writes it",
            "source-layout",
        )
    if path.is_file() and path.name not in (CONFIG, WEIGHTS):
        raise ModelError(
            f"{source}: give the folder that holds {CONFIG} and {WEIGHTS}, or {WEIGHTS} itself",
            "source-layout",
        )
    return ModelFiles(config, weights, transforms, readme)


def _fetch(name: str, files: Sequence[str]) -> dict[str, Path]:
    """Return the paths of a hub model's files in the cache; some files are optional."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    found = {}
    with offline_unless_reachable():
        for file in files:
            try:
                found[file] = Path(hf_hub_download(name, file))
            except RepositoryNotFoundError:
                raise ModelError(
                    f"{name}: no such model on the hub; check the id", "no-such-source"
                ) from None
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError) and file in (CONFIG, WEIGHTS):
                    raise ModelError(
                        f"{name}: cannot be fetched (the hub does not answer); connect to it, or "
                        "give a folder that save_pretrained wrote: "
                        "fastseg adopt surfaces --from DIR",
                        "not-fetched",
                    ) from None
            except OSError as error:
                raise ModelError(
                    f"{name}: cannot be fetched ({brief(error)}); "
                    "try again, or give a folder: --from DIR",
                    "not-fetched",
                ) from None
    return found


def _build_network(config: dict[str, Any], files: ModelFiles, task: SegmentationTask) -> Network:
    """Build the model that `config` names, with its weights, its classes merged to the task's."""
    with importing():
        from safetensors.torch import load_file

        from ..models.factory import build, padding_of
    spec = _spec_of(config, files.config, task)
    try:
        spec = replace(spec, stride=padding_of(spec))
        network = build(spec)
    except ModelError as error:
        raise ModelError(
            f"{files.config}: no network can be built of it ({brief(error.__cause__ or error)})",
            "unsupported-source",
        ) from error
    try:
        network.model.model.load_state_dict(load_file(files.weights))
    except Exception as error:
        # safetensors and torch raise many kinds of errors for damaged or foreign weights
        raise ModelError(
            f"{files.weights}: does not fit its {CONFIG} ({brief(error)})", "damaged-source"
        ) from error
    return network


def _spec_of(config: dict[str, Any], where: Path, task: SegmentationTask) -> Spec:
    """Return the spec of the network that a config file names; only known names are accepted."""
    import segmentation_models_pytorch as smp

    from ..models.network import Spec

    for key in ("_model_class", "encoder_name", "classes"):
        if key not in config:
            raise ModelError(
                f"{where}: names no {key}; give a model that save_pretrained of "
                "segmentation-models-pytorch 0.4 or later wrote",
                "damaged-source",
            )
    decoder, encoder = str(config["_model_class"]).lower(), str(config["encoder_name"])
    known = decoder in smp.MODEL_ARCHITECTURES_MAPPING and decoder != "dpt"
    if not known or not re.fullmatch(r"[\w.\-]{1,100}", encoder):
        raise ModelError(
            f"{where}: a {brief(config['_model_class'])} over {brief(encoder)} cannot be adopted",
            "unsupported-source",
        )
    for name, value, wanted in (
        ("classes", config["classes"], ADE20K_CLASSES),
        ("in_channels", config.get("in_channels", 3), 3),
    ):
        if value != wanted or type(value) is not int:
            raise ModelError(
                f"{where}: {name} is {brief(repr(value))}; a model of ADE20K has {wanted}",
                "unsupported-source",
            )
    options = {key: value for key, value in config.items() if key not in NOT_OPTIONS}
    model_class = smp.MODEL_ARCHITECTURES_MAPPING[decoder]
    if "upsampling" in signature(model_class.__init__).parameters:
        options["upsampling"] = 1  # enlarge the few merged classes, not the 150 original ones
    codes = task.meaning("ade20k")  # ADE20K counts its classes from 1
    options["merge"] = [
        [index for index in range(ADE20K_CLASSES) if codes.get(index + 1, 0) == ours]
        for ours in range(len(task.classes))
    ]
    if not encoder.startswith("tu-"):  # an encoder of segmentation_models_pytorch, not timm's
        options["encoder_name"] = encoder
    arch = encoder.removeprefix("tu-")
    return Spec("segment", arch, len(task.classes), decoder, 1, options)


def _read_transforms(
    files: ModelFiles,
) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Return the size, (height, width), mean and std that the model was validated with.

    They are read from its albumentations pipeline; without one, they are ADE20K's usual ones.
    """
    from ..models.backbones import IMAGENET

    size = (SIZE, SIZE)
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    if files.transforms is None:
        return size, mean, std
    try:
        for step in read_json(files.transforms)["transform"]["transforms"]:
            kind = str(step.get("__class_fullname__", "")).rpartition(".")[2]
            if kind == "Resize":
                size = int(step["height"]), int(step["width"])
                check_size(size)
            elif kind == "Normalize":
                scale = float(step.get("max_pixel_value", 255)) / 255
                mean, std = (tuple(float(v) * scale for v in step[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        raise ModelError(
            f"{files.transforms}: cannot be read as the model's pipeline ({brief(error)}); "
            "correct or remove it",
            "damaged-source",
        ) from error
    return size, mean, std


def _licence(files: ModelFiles, config: dict[str, Any]) -> str:
    """Return the licence of the weights: that of the model's page, or of its family."""
    from huggingface_hub import ModelCard

    # regardless of the page: the trained backbone is NVIDIA's
    if str(config.get("encoder_name")).startswith("mit_b"):
        return NON_COMMERCIAL
    if files.readme is None:
        return "not stated"
    try:
        licence = ModelCard.load(files.readme).data.license
    except Exception as error:  # the header of a page can be any YAML
        licence = f"unreadable ({brief(error)})"
    return brief(licence) if licence else "not stated"


def _learner_of_network(
    task: Task, network: Network, size: tuple[int, int], source: str
) -> Learner:
    """Return the learner that an export is written from.

    It is made with a few synthetic images, which are not part of the export.
    """
    from ..data.cache import Pixels
    from ..data.loaders import dataloaders
    from ..learners.build import as_learner

    recipe = task.recipe
    with tempfile.TemporaryDirectory() as folder:
        data = task.sample(Path(folder) / "data", n=4)
        dls = dataloaders(task, data, Pixels(task, size, 0), bs=2, device="cpu")
        learn = as_learner(dls, network, f"adopted from {source}")
    learn.record = TrainingRecord(
        task=task,
        data="",
        size=size,
        seed=42,
        loss=recipe.loss,
        opt=recipe.opt,
        bs=recipe.bs,
        weights_origin=f"adopted from {source}",
    )
    learn.model.to("cpu").eval()
    return learn

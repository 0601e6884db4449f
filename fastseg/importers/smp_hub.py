"""A ready model of many classes, from segmentation-models-pytorch's hub or a folder, taken over as an export of four."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, ExportError, ModelError, TaskError, brief
from ..exports.card import CARD, read_card, seal
from ..exports.folder import replacing
from ..exports.record import TrainingRecord
from ..exports.write import write
from ..tasks import Task, get
from ..utils.choices import check_size
from ..utils.imports import importing
from ..utils.io import read_json
from ..utils.locks import write_lock

if TYPE_CHECKING:
    from ..models.network import Network

FREE = "smp-hub/upernet-convnext-tiny"  # a ready one whose licence lets anybody use it; SegFormer's do not
ADE20K_CLASSES = 150
SIZE = 512  # px, of ADE20K models that do not say theirs
CONFIG, WEIGHTS, TRANSFORMS, README = (
    "config.json",
    "model.safetensors",
    "albumentations_config_eval.json",
    "README.md",
)
NON_COMMERCIAL = (
    "NVIDIA Source Code License for SegFormer: research and evaluation only, no commercial use"
)


@dataclass(frozen=True)
class Adopted:
    """What was taken over: the export written, what it is, and the licence of its weights."""

    export: Path
    model: str
    licence: str


def adopt(
    task: str | Task = "surfaces", source: Path | str = FREE, out: Path | str | None = None
) -> Adopted:
    """Write an export of `task` from a ready ADE20K model; `out` is by default exports/TASK.

    `source` is a model of segmentation-models-pytorch as its `save_pretrained` leaves it: an id on the hub, a folder, or the
    safetensors file in one. Its 150 probabilities are summed into the task's classes by the table in tasks/surfaces.tsv.
    Raises `TaskError` for tasks that no ready model is known for, `ModelError` for models that cannot be taken over or reached,
    `ExportError` if `out` holds an export that was trained.
    """
    task = get(task)
    if task.name != "surfaces":
        raise TaskError(
            f"no ready model is known for {task.name}; adopt surfaces, or train with: fastseg fit {task.name}",
            "no-ready-model",
        )
    out = Path(out or f"exports/{task.name}")
    if (out / CARD).is_file() and not read_card(out).is_adopted:
        raise ExportError(
            f"{out}: holds an export that was trained; choose another folder with --out",
            "holds-export",
        )
    files = _files(str(source))
    config = read_json(files[CONFIG])
    name, licence = str(source), _licence(files, config)
    with write_lock(out), replacing(out, task) as folder:
        network = _network(config, files[WEIGHTS], task)
        size, network.mean, network.std = _transforms(files)
        card = write(_learner(task, network, size, name), folder)
        card.training, card.train_images, card.valid_files, card.licence = (
            {"adopted_from": name},
            0,
            [],
            licence,
        )
        seal(card, folder)
    return Adopted(out, f"{config['_model_class']} over {network.spec.arch}", licence)


def _files(source: str) -> dict[str, Path | None]:
    """Return where the files of a model lie, those of the hub after fetching them; None for the ones that need not be there."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    if folder is None and (not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith(".")):
        raise ModelError(
            f"{source}: no such folder, and no id on the hub such as {FREE}", "no-such-source"
        )
    found = (
        {name: folder / name for name in (CONFIG, WEIGHTS, TRANSFORMS, README)}
        if folder
        else _fetched(source)
    )
    for name in (CONFIG, WEIGHTS):
        if found[name] is None or not found[name].is_file():
            raise ModelError(
                f"{source}: has no {name}; give a model as segmentation-models-pytorch's save_pretrained writes it",
                "source-layout",
            )
    if path.is_file() and path.name not in (CONFIG, WEIGHTS):
        raise ModelError(
            f"{source}: give the folder that holds {CONFIG} and {WEIGHTS}, or {WEIGHTS} itself",
            "source-layout",
        )
    return {name: file if file and file.is_file() else None for name, file in found.items()}


def _fetched(name: str) -> dict[str, Path | None]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    from ..models.weights import offline_unless_reachable

    found: dict[str, Path | None] = {}
    with offline_unless_reachable():
        for file in (CONFIG, WEIGHTS, TRANSFORMS, README):
            try:
                found[file] = Path(hf_hub_download(name, file))
            except RepositoryNotFoundError:
                raise ModelError(
                    f"{name}: no such model on the hub; check the id", "no-such-source"
                ) from None
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError) and file in (CONFIG, WEIGHTS):
                    raise ModelError(
                        f"{name}: cannot be fetched (the hub does not answer); connect to it, or give a folder that "
                        "save_pretrained wrote: fastseg adopt surfaces --from DIR",
                        "not-fetched",
                    ) from None
                found[file] = None
            except OSError as error:
                raise ModelError(
                    f"{name}: cannot be fetched ({brief(error)}); try again, or give a folder: --from DIR",
                    "not-fetched",
                ) from None
    return found


def _network(config: dict, weights: Path, task: Task) -> Network:
    """Build the model that `config` names, with its weights, merged to the task's classes; only known names are built."""
    with importing():
        import segmentation_models_pytorch as smp
        from safetensors.torch import load_file

        from ..models.factory import build, padding_of
        from ..models.network import Spec
    where = weights.with_name(CONFIG)
    try:
        decoder, encoder, classes = (
            str(config["_model_class"]).lower(),
            str(config["encoder_name"]),
            config["classes"],
        )
    except KeyError as error:
        raise ModelError(
            f"{where}: names no {error.args[0]}; give a model that save_pretrained of segmentation-models-pytorch 0.4 or "
            "later wrote",
            "damaged-source",
        ) from None
    if (
        decoder not in smp.MODEL_ARCHITECTURES_MAPPING
        or decoder == "dpt"
        or not re.fullmatch(r"[\w.\-]{1,100}", encoder)
    ):
        raise ModelError(
            f"{where}: a {brief(config['_model_class'])} over {brief(encoder)} cannot be adopted",
            "unsupported-source",
        )
    codes = task.meaning("ade20k")
    for name, value, wanted in (
        ("classes", classes, ADE20K_CLASSES),
        ("in_channels", config.get("in_channels", 3), 3),
    ):
        if value != wanted or type(value) is not int:
            raise ModelError(
                f"{where}: {name} is {brief(repr(value))}; a model of ADE20K has {wanted}",
                "unsupported-source",
            )
    used = {
        "_model_class",
        "encoder_name",
        "encoder_weights",
        "classes",
        "in_channels",
        "activation",
        "aux_params",
    }
    options = {key: value for key, value in config.items() if key not in used}
    model_class = smp.MODEL_ARCHITECTURES_MAPPING[decoder]
    if "upsampling" in signature(model_class.__init__).parameters:
        options["upsampling"] = 1  # few classes are enlarged after merging, not 150 before it
    options["merge"] = [
        [index for index in range(classes) if codes.get(index + 1, 0) == ours]
        for ours in range(len(task.classes))
    ]
    native = not encoder.startswith("tu-")
    spec = Spec(
        "segment",
        encoder.removeprefix("tu-"),
        len(task.classes),
        decoder,
        1,
        {**options, **({"encoder_name": encoder} if native else {})},
    )
    try:
        spec = replace(spec, stride=padding_of(spec))
        network = build(spec)
    except ModelError as error:
        raise ModelError(
            f"{where}: no network can be built of it ({brief(error.__cause__ or error)})",
            "unsupported-source",
        ) from error
    try:
        network.model.model.load_state_dict(load_file(weights))
    except (
        Exception
    ) as error:  # damaged files and foreign weights fail in the reader's or in torch's own way
        raise ModelError(
            f"{weights}: does not fit its {CONFIG} ({brief(error)})", "damaged-source"
        ) from error
    return network


def _transforms(
    files: dict[str, Path | None],
) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Return the size, mean and std that the model was validated with, as its albumentations pipeline says, or ADE20K's usual ones."""
    from ..models.backbones import IMAGENET

    size, (mean, std) = (SIZE, SIZE), IMAGENET
    try:
        for step in (
            read_json(files[TRANSFORMS])["transform"]["transforms"] if files[TRANSFORMS] else []
        ):
            kind = str(step.get("__class_fullname__", "")).rpartition(".")[2]
            if kind == "Resize":
                size = int(step["height"]), int(step["width"])
                check_size(size)
            elif kind == "Normalize":
                scale = float(step.get("max_pixel_value", 255)) / 255
                mean, std = (tuple(float(v) * scale for v in step[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        raise ModelError(
            f"{files[TRANSFORMS]}: cannot be read as the model's pipeline ({brief(error)}); correct or remove it",
            "damaged-source",
        ) from error
    return size, mean, std


def _licence(files: dict[str, Path | None], config: dict) -> str:
    """Return the licence of the weights: what the model's page says, or what is known of its family."""
    from huggingface_hub import ModelCard

    if str(config.get("encoder_name")).startswith(
        "mit_b"
    ):  # whatever the page says: the trained backbone is NVIDIA's
        return NON_COMMERCIAL
    try:
        told = ModelCard.load(files[README]).data.license if files[README] else None
    except Exception as error:  # a page's header is anybody's YAML
        told = f"unreadable ({brief(error)})"
    return brief(told) if told else "not stated"


def _learner(task: Task, network: Network, size: tuple[int, int], source: str):
    """Return the learner that an export is written from; the few synthetic images it is made with leave no trace in it."""
    from ..data.cache import Pixels
    from ..data.loaders import dataloaders
    from ..learners.build import as_learner

    recipe = task.recipe
    with tempfile.TemporaryDirectory() as folder:
        dls = dataloaders(
            task, task.sample(Path(folder) / "data", 4), Pixels(task, size, 0), 2, 42, "cpu", None
        )
        learn = as_learner(dls, network, f"adopted from {source}")
    learn.record = TrainingRecord(
        task=task.name,
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

"""From a few hundred labelled images to a trained, explained, deployable fastai learner."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .utils.imports import importing

__version__ = "0.5.0"

# By default OpenMP threads wait in a busy loop, which makes training slow while another program
# uses the same cores (measured: 20 times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# From release 1.29 on, onnxruntime sends figures of its use to its maker unless this is set before
# its first session.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Public names by module, imported on first use: `import fastseg` and the help of the command line
# need neither torch nor fastai. `__init__.pyi` names the same ones for type checkers and editors.
_PUBLIC = {
    "checks.dataset": ("check",),
    "conversion.converting": ("export",),
    "corrections.audit": ("label",),
    "corrections.incoming": ("add",),
    "corrections.order": ("next_images",),
    "discovery.look": ("new",),
    "errors": ("FastsegError",),
    "evaluation.run": ("evaluate",),
    "exports.earlier": ("restore",),
    "exports.write": ("save",),
    "importers.conversion": ("convert",),
    "importers.face_masks": ("make_masks",),
    "importers.smp_hub": ("adopt",),
    "importers.surfaces": ("gather",),
    "inference.batch": ("predict",),
    "inference.loading": ("load",),
    "inference.photo": ("segment",),
    "learners.build": ("unet_learner", "vision_learner"),
    "learners.preparation": ("learner",),
    "measuring.run": ("measure",),
    "report.browse": ("show",),
    "report.results": ("interpret",),
    "sharing.pack": ("pack",),
    "sharing.pull": ("pull",),
    "sharing.push": ("push",),
    "training.fit": ("find_lr", "fit"),
    "training.how_many": ("how_many",),
    "training.study": ("study",),
    "training.tune": ("tune",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*sorted(_MODULE_OF), "tasks"]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        with importing():
            return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if name in ("tasks", *(module.partition(".")[0] for module in _PUBLIC)):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

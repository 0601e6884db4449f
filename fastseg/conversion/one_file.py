"""The model as one HTML file, which opens by double click and needs neither server nor network.

The file has onnxruntime-web, the export's model.onnx, and a page that predicts images, measures
them, and lets people correct masks by the app's own editor. A page from a file may not fetch other
files: everything is inside, modules as text that `page/boot.js` links, binaries as base64 of gzip.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ..corrections.encoding import can_be_unlabelled
from ..data.colours import hexadecimal
from ..data.reading import RGB
from ..errors import ModelError
from ..exports.card import MODEL, ONNX, Card
from ..exports.read import as_trained, card_of, task_of, verify_file
from ..report.painting import class_colours
from ..tasks import SegmentationTask, Task
from ..utils.io import atomic_file
from .webruntime import WebRuntime

HERE = Path(__file__).with_name("page")
WEBAPP = Path(__file__).parents[1] / "webapp"  # the editor and the styles are the app's
REPORT = Path(__file__).parents[1] / "report" / "templates"
FOLDERS = (HERE, WEBAPP / "static", WEBAPP / "static" / "editor")
STYLES = (
    REPORT / "tokens.css",
    *(WEBAPP / "static" / name for name in ("app.css", "editor.css")),
    HERE / "page.css",
)
RUNTIME = "ort.js"  # as which the page's modules import onnxruntime-web
ROOTS = ("page.js", "worker.js")  # modules that boot.js starts
IMPORT = re.compile(r'^(?:import|export)[^"]*? from "\./?[^"]*?([a-z]+\.js)";', re.MULTILINE)
LEVEL = 6  # of gzip: level 9 takes four times as long, for files that are 1 % smaller


def write_html(export: Path | str, out: Path, runtime: WebRuntime) -> Path:
    """Write the model of an export as one HTML file and return its path.

    The page's masks are those of `fastseg predict --runtime onnx`. Raises `ExportError` if the
    export has no model.onnx, and `ModelError` with code "not-in-html" if its images are not RGB.
    """
    card = card_of(export)
    task = as_trained(task_of(card), card)
    if task.channels != RGB or task.channel_files:
        raise ModelError(
            f"{export}: its images have {task.channels} channels, and browsers decode RGB images "
            "only; choose --to onnx",
            "not-in-html",
        )
    model = verify_file(Path(export) / ONNX, card).read_bytes()
    style = "\n".join(file.read_text(encoding="utf-8") for file in STYLES)
    boot = (HERE / "boot.js").read_text(encoding="utf-8")
    templates = Environment(
        loader=FileSystemLoader([HERE, WEBAPP / "templates"]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template("page.html").render(
        alone=True,
        task=task,
        title=task.name,
        classes=_listed([name for i, name in enumerate(task.classes) if i != task.background]),
        facts=_facts(card),
        settings=_settings(task, card),
        modules=_modules(runtime),
        wasm=_packed(runtime.wasm),
        model=_packed(model),
        icon=_data_address(WEBAPP / "static" / "favicon.svg"),
        style=style,
        boot=boot,
        policy=_policy(style, boot),
    )
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def model_in(file: Path) -> bytes:
    """Return the ONNX model in an HTML file that `write_html` wrote."""
    text = file.read_text(encoding="utf-8")
    found = re.search(r'<script type="text/plain" id="model-file">([^<]*)</script>', text)
    return gzip.decompress(base64.b64decode(found.group(1) if found else ""))


def _settings(task: Task, card: Card) -> dict[str, Any]:
    """Return what the page's scripts need to know."""
    # of masks, those of the overlays that `predict` writes
    palette = task.palette if isinstance(task, SegmentationTask) else class_colours(task)
    is_coloured = isinstance(task, SegmentationTask) and task.output == "colours"
    return {
        "task": task.name,
        "source": f"{_name(card)} {card.sha256.get(MODEL, '')[:12]}".strip(),
        "masks": task.has_masks,
        "background": task.background,
        "unlabelled": can_be_unlabelled(task),
        "classes": [
            {"code": code, "name": name, "colour": hexadecimal(colour)}
            for code, (name, colour) in enumerate(zip(task.classes, palette))
        ],
        "palette": palette if is_coloured else None,
        "model": {
            "size": card.size,
            "resize": card.resize,
            "alpha": task.alpha,
            "classes": len(task.classes),
            "masks": task.has_masks,
            "tta": card.tta,
            "flip_shift": card.flip_shift,
            "temperature": card.temperature,
        },
    }


def _facts(card: Card) -> dict[str, str]:
    """Return what the page says about the model."""
    height, width = card.size
    facts = {
        "Export": _name(card),
        "Network": f"{card.network['arch']}, {width} x {height} px",
        "Trained on": f"{card.train_images} images, {card.created[:10]}",
        "Licence of the weights": card.licence,
        "Written by": f"fastseg {card.fastseg}",
    }
    return {name: value for name, value in facts.items() if value}


def _name(card: Card) -> str:
    return card.folder.resolve().name if card.folder else card.task


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _modules(runtime: WebRuntime) -> list[tuple[str, str]]:
    """Return (name, source) of the page's modules, each after those that it imports."""
    found: dict[str, str] = {}

    def add(name: str) -> None:
        if name in found:
            return
        if name == RUNTIME:
            source = re.sub(r"^//# sourceMappingURL=.*$", "", runtime.script, flags=re.MULTILINE)
        else:
            file = next(folder / name for folder in FOLDERS if (folder / name).is_file())
            source = file.read_text(encoding="utf-8")
            for other in IMPORT.findall(source):
                add(other)
        found[name] = source

    for root in ROOTS:
        add(root)
    return list(found.items())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, LEVEL, mtime=0)).decode()


def _data_address(picture: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _policy(style: str, boot: str) -> str:
    """Return the content security policy: the page's own scripts only, and no network at all."""
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (style, boot)
    ]
    return (
        f"default-src 'none'; script-src {digests[1]} blob: 'wasm-unsafe-eval'; worker-src blob:; "
        f"style-src {digests[0]}; img-src blob: data:; base-uri 'none'; form-action 'none'"
    )

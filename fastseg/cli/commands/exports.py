"""Exports: in the formats of other runtimes; earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ...utils.choices import TARGETS
from .. import console, results
from ..arguments import Json
from ..group import app


@app.command(epilog="Example: fastseg export exports/eye --to onnx")
def export(
    export: Annotated[
        str,
        typer.Argument(
            metavar="EXPORT",
            help="The folder of an export, or a task whose export is exports/TASK.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help=f"The format: {', '.join(TARGETS)}.")],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder to write [default: EXPORT_FORMAT beside the export]."),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            "--data",
            help="Folder with the labelled images to compare on [default: the one that the export "
            "was trained on].",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Keep a model that is not the same, or that nothing compares."
        ),
    ] = False,
    onnxruntime_web: Annotated[
        Optional[Path],
        typer.Option(
            "--onnxruntime-web",
            help="For html: the archive of this npm package, or a folder of it [default: npm "
            "downloads it, once].",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert an export to the format of another runtime, with an example that runs it. Refused
    unless it is the same model: its masks on held-out images are compared with the export's.
    """
    from ...conversion.converting import export as call

    result = call(export, to, out, data=data, force=force, onnxruntime_web=onnxruntime_web)
    if as_json:
        return console.as_json(result)
    results.converted(result, "" if out else export)


@app.command(epilog="Example: fastseg restore exports/eye")
def restore(
    export: Annotated[
        Path,
        typer.Argument(
            metavar="EXPORT", help="The current export, or an earlier one in .earlier beside it."
        ),
    ],
    earlier: Annotated[
        Optional[Path],
        typer.Option(
            "--earlier", help="The export to take back [default: the newest of EXPORT in .earlier]."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take an earlier export back, where a new one is worse; the new one is kept in .earlier."""
    from ...exports.earlier import restore as call

    restored = call(export, earlier)
    if as_json:
        return console.as_json({key: str(value) for key, value in vars(restored).items()})
    typer.echo(f"{restored.export}: is {restored.earlier.name} again; before: {restored.kept}")

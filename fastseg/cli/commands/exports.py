"""Earlier exports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import console
from ..arguments import Json
from ..group import app


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

"""The app in the browser."""

from __future__ import annotations

import os
from typing import Annotated, Optional

import typer

from .. import console
from ..arguments import Data, Device, Export, Json
from ..group import app as group

SHORTEST_PASSWORD = 8  # characters; wrong ones are slowed down, too


@group.command(epilog="Example: fastseg app eye --open")
def app(
    task: Annotated[
        Optional[str],
        typer.Argument(
            metavar="[TASK|DIR|EXPORT]",
            help="A task's name, a folder with a task.toml, or the folder of an export "
            "[default: the task.toml here, or the newest export].",
        ),
    ] = None,
    data: Data = None,
    export: Export = None,
    port: Annotated[
        Optional[int],
        typer.Option(
            "--port", min=0, max=65535, help="Port; 0: any free one [default: 8765, or the next]."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen at; other machines need a --password."),
    ] = "127.0.0.1",
    password: Annotated[
        bool,
        typer.Option(
            "--password",
            help="Ask for a password, in the terminal or from FASTSEG_PASSWORD, which the browser "
            "must give.",
        ),
    ] = False,
    device: Device = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Look through data, train, predict, correct and compare in the browser, on this machine.

    It prints the address to open. Ctrl-C ends it; a training that runs keeps a checkpoint.
    """
    from ...webapp.server import open_app

    server = open_app(
        task,
        data,
        export=export,
        host=host,
        port=port,
        password=_asked_password() if password else None,
        device=device,
    )

    def started() -> None:
        if as_json:
            console.as_json({"url": server.url, "port": server.port}, indent=None)
        else:
            typer.echo(f"open {server.url}  (Ctrl-C ends it)")
        if open_it and typer.launch(server.url):
            console.say("found no browser; open the address yourself")

    server.run(started)


def _asked_password() -> str:
    """Return the password from the environment or the terminal. Raises `typer.BadParameter`."""
    found = os.environ.get("FASTSEG_PASSWORD")
    if not found and console.is_interactive():
        found = typer.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
    if not found or len(found) < SHORTEST_PASSWORD:
        raise typer.BadParameter(
            f"give one of at least {SHORTEST_PASSWORD} characters in FASTSEG_PASSWORD",
            param_hint="--password",
        )
    return found

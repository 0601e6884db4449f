"""The group of all commands: options of fastseg itself, and how mistakes end."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer

from .. import __version__
from ..engines.distributed import place
from ..errors import FastsegError, ProcessError, is_out_of_memory
from ..utils.hub import go_offline
from . import console

STARTED = time.monotonic()


class Commands(typer.core.TyperGroup):
    """A command group in which a user's mistake is one line on standard error and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "" in args:  # an empty path would mean the current folder
            raise typer.BadParameter("an argument is empty: is a shell variable unset?")
        ctx.meta["as_json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            _refuse_processes(ctx)
            return super().invoke(ctx)
        except FastsegError as error:
            if not error.is_told:
                console.say(f"error: {error}", "red")
                _print_json_error(ctx, error.code, str(error), error.details)
        except KeyboardInterrupt:
            if not is_first_process():
                raise typer.Exit(130) from None
            text = "interrupted; finished files are complete, nothing else was written"
            console.say(text, "yellow")
            _print_json_error(ctx, "interrupted", text)
            raise typer.Exit(130) from None
        except PermissionError as error:
            place = error.filename or "a file"
            text = f"{place}: permission denied; check the rights of it and of its folders"
            console.say(f"error: {text}", "red")
            _print_json_error(ctx, "permission", text)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            text = "out of memory; lower --size, or --bs where the command has it"
            console.say(f"error: {text}", "red")
            _print_json_error(ctx, "out-of-memory", text)
        except Exception as error:
            name = getattr(error, "option_name", "")  # of an option that the command lacks
            if name in (flag for option in self.params for flag in option.opts):  # see `start`
                vars(error).update(possibilities=None, message=f"{name} belongs before the command")
            raise
        raise typer.Exit(1)


def is_first_process() -> bool:
    """Return whether this process prints: it is alone, or the first of several."""
    where = place()
    return where is None or where.rank == 0


def _refuse_processes(ctx: Any) -> None:
    """Raise `ProcessError` if several processes were started for a command that one does."""
    where = place()
    command = next(iter([*ctx._protected_args, *ctx.args]), "")
    if where is not None and command not in ("fit", ""):
        error = ProcessError(
            f"fastseg {command} works in one process, and torchrun started {where.size}; only fit "
            "works in several: start it without torchrun",
            "one-process",
        )
        error.is_told = where.rank > 0
        raise error


def _print_json_error(
    ctx: Any, code: str, message: str, details: Mapping[str, object] | None = None
) -> None:
    if ctx.meta.get("as_json"):
        console.as_json({"error": {"code": code, "message": message}, **(details or {})})


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, judge and use segmenters and classifiers for small vision datasets.\n\n"
    "Start with: fastseg sample eye, fastseg fit eye, fastseg interpret.",
)


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    threads: Annotated[
        Optional[int],
        typer.Option(
            "--threads",
            min=1,
            max=1024,
            help="Processor threads to compute with [default: all cores].",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Fetch nothing: exports and weights from elsewhere must be in the cache.",
        ),
    ] = False,
) -> None:
    if version:
        typer.echo(f"fastseg {__version__}")
        raise typer.Exit()
    if offline:
        go_offline()
    if threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    elif threads:  # torch is not imported yet; it reads these variables when it is
        os.environ.update({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    package = logging.getLogger("fastseg")
    if not package.handlers:
        package.addHandler(console.ConsoleLogHandler())
        package.propagate = False
    package.setLevel(logging.INFO)
    # Users of the command line cannot correct deprecated calls inside the libraries.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="torch|fastai|timm|huggingface_hub"
    )

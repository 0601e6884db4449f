"""The command line: each command parses, makes one public call, and prints."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .. import __version__
from ..engines.distributed import place
from ..errors import FastsegError, ProcessError, is_out_of_memory
from ..learners.options import LEARNER_OPTIONS, MAX_SEED, OPTIONS
from ..utils.shell import typed
from . import console
from .options import SHORTEST_BUDGET, read_value, varied_options, with_fit_options

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
            if not _is_first_process():
                raise typer.Exit(130) from None
            text = "interrupted; finished files are complete, nothing else was written"
            console.say(text, "yellow")
            _print_json_error(ctx, "interrupted", text)
            raise typer.Exit(130) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            text = "out of memory; lower --size, or --bs where the command has it"
            console.say(f"error: {text}", "red")
            _print_json_error(ctx, "out-of-memory", text)
        raise typer.Exit(1)


def _is_first_process() -> bool:
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

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="A task's name (fastseg tasks lists them), or a folder with a task.toml.",
    ),
]
TaskOrExport = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="A task's name, a folder with a task.toml, or the folder of an export.",
    ),
]
Data = Annotated[
    Optional[Path],
    typer.Option("--data", help="Folder with the labelled images [default: data/TASK]."),
]
TrainedData = Annotated[
    Optional[Path],
    typer.Option(
        "--data",
        help="Folder with the labelled images [default: the one "
        "the export was trained on, data/TASK unless fit was given another].",
    ),
]
Export = Annotated[
    Optional[Path], typer.Option("--export", help="Export folder [default: exports/TASK].")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Open an --export FILE.pkl whose SHA-256 is not the one in its card: a pickle can run "
        "any code.",
    ),
]
Device = Annotated[
    Optional[str],
    typer.Option("--device", help=OPTIONS["device"].described),
]
Precision = Annotated[
    Optional[str],
    typer.Option("--precision", help=OPTIONS["precision"].described),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime", help="onnx, torch, or auto: the one that was measured to be faster here."
    ),
]
Engine = Annotated[
    Optional[str],
    typer.Option(
        "--engine",
        help="local (processes of this machine) or ray (a cluster; needs the extra ray).",
    ),
]
Workers = Annotated[
    Optional[int],
    typer.Option(
        "--workers",
        help="Processes to share the work [default: this one; with ray: one for each core].",
    ),
]
Address = Annotated[
    Optional[str],
    typer.Option(
        "--address",
        help="A running Ray cluster: auto, host:6379 or ray://host:10001 "
        "[default: Ray starts here].",
    ),
]
NumGpus = Annotated[
    float, typer.Option("--num-gpus", min=0, help="GPUs that each worker of Ray holds.")
]
Tta = Annotated[
    Optional[bool],
    typer.Option(
        "--tta/--no-tta",
        help="Average each image with its mirror image [default: the task's recipe].",
    ),
]
Split = Annotated[str, typer.Option("--split", help="valid (held out by fit), train, test or all.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output instead of a table.")
]


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
) -> None:
    if version:
        typer.echo(f"fastseg {__version__}")
        raise typer.Exit()
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


@app.command(epilog="Example: fastseg tasks")
def tasks(as_json: Json = False) -> None:
    """List the tasks: classes, the state of their data, newest export."""
    from .status import overview

    rows = overview()
    if as_json:
        return console.as_json(rows)
    console.table(
        ("task", "kind", "classes", "in data/TASK", "in exports/"),
        [
            (
                row["task"],
                row["kind"],
                ", ".join(row["classes"]),
                row["data_state"].removeprefix(f"{row['data']}: "),
                ", ".join(
                    [
                        *([Path(row["export"]).name] if row["export"] else []),
                        *(["interrupted fit"] if row["interrupted"] else []),
                    ]
                )
                or "none yet",
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["error"]:
            console.say(f"{row['task']}: {row['error']}", "yellow")


@app.command(epilog="Example: fastseg sample eye --n 40")
def sample(
    task: TaskName,
    folder: Annotated[
        Optional[Path], typer.Argument(metavar="[DIR]", help="Where to [default: data/TASK].")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="How many images.")] = 40,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, max=MAX_SEED, help="The same seed gives the same images."),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write a synthetic dataset in the task's real layout, to try everything before real data
    exist.
    """
    from ..tasks import get

    found = get(task)
    folder = found.sample(folder or found.default_data, n, seed)
    if as_json:
        return console.as_json({"task": found.name, "folder": str(folder), "images": n})
    typer.echo(
        f"{n} synthetic {found.name} images are in {folder}; "
        f"next: fastseg fit {typed(found.reference)}"
        + (f" --data {typed(folder)}" if folder != found.default_data else "")
    )


@app.command(epilog="Example: fastseg new photos/roofs")
def new(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with images and their labels.")
    ],
    name: Annotated[
        Optional[str],
        typer.Option("--name", help="The task's name [default: the folder's name]."),
    ] = None,
    kind: Annotated[
        Optional[str], typer.Option("--kind", help="segment (masks) or classify (whole images).")
    ] = None,
    form: Annotated[
        Optional[str],
        typer.Option(
            "--format", help="Which label files count: coco, labelme and so on; masks: mask images."
        ),
    ] = None,
    images: Annotated[
        Optional[str], typer.Option("--images", help="Folder of the images, below DIR.")
    ] = None,
    masks: Annotated[
        Optional[str], typer.Option("--masks", help="Folder of the masks, below DIR.")
    ] = None,
    pixels: Annotated[
        Optional[str],
        typer.Option(
            "--pixels", help="What mask pixels are: codes, colours or threshold (black and white)."
        ),
    ] = None,
    ignore: Annotated[
        Optional[str],
        typer.Option(
            "--ignore", metavar="CODES", help="Codes of unlabelled pixels, such as 11,255; or none."
        ),
    ] = None,
    label_column: Annotated[
        Optional[str],
        typer.Option("--label-column", help="Column of a table that has the labels."),
    ] = None,
    group: Annotated[
        Optional[str],
        typer.Option(
            "--group",
            metavar="PATTERN",
            help="What images that belong together have in common: a regular expression at the "
            "start of their names; auto: the one that is proposed; or none.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing: take the likelier readings.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DIR/task.toml.")] = False,
    as_json: Json = False,
) -> None:
    """Look into a folder of your data, say what it holds and why, and write its task.toml.

    The folder then stands wherever a task's name does. The data are only read.
    """
    from ..discovery.look import new as call

    asks = not yes and not as_json and console.is_interactive()
    made = call(
        folder,
        name=name,
        force=force,
        ask=console.ask if asks else None,
        kind=kind,
        format=form,
        images=images,
        masks=masks,
        pixels=pixels,
        ignore=ignore,
        label_column=label_column,
        group=group,
    )
    if as_json:
        return console.as_json(made.to_json())
    console.found(made)


@app.command(epilog="Example: fastseg show eye --class iris --out eye.html --open")
def show(
    task: TaskName,
    data: Data = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out", help="PNG file, or an HTML page to scroll through [default: TASK_show.png]."
        ),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of the grid.")] = 6,
    only: Annotated[
        Optional[str], typer.Option("--class", help="Only images that have this class.")
    ] = None,
    wrong: Annotated[
        bool,
        typer.Option(
            "--wrong",
            help="The held-out images with the largest errors of an export, of the data "
            "that it was trained on.",
        ),
    ] = False,
    export: Export = None,
    device: Device = None,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open it in this machine's viewer.")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Which images are drawn.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Look through a dataset: images, masks in visible colours, overlays, legend; or the largest
    errors of an export.
    """
    from ..report.browse import show as call

    picture = call(
        task,
        data,
        out=out,
        rows=rows,
        seed=seed,
        only=only,
        wrong=wrong,
        export=export,
        device=device,
    )
    if open_it and typer.launch(str(picture)):
        console.say(f"found no viewer; open {picture} yourself")
    if as_json:
        return console.as_json({"picture": str(picture)})
    typer.echo(picture)


@app.command(epilog="Example: fastseg check eye --fix data/eye_repaired")
def check(
    task: TaskName,
    data: Data = None,
    fix: Annotated[
        Optional[Path],
        typer.Option(
            "--fix",
            metavar="OUT",
            help="Write a repaired copy to this new folder, with "
            "changes.csv; the original data are not changed.",
        ),
    ] = None,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Find what is wrong with a dataset: each fault with file, place and remedy. Exit code 1 if a
    fit would refuse it. A folder without task.toml is read as `fastseg new` would read it.
    """
    from ..checks.dataset import check as call
    from ..tasks.declared import has_no_task

    found: Any = task
    if has_no_task(task):
        from ..discovery.look import undeclared

        found = undeclared(task)
    audit = call(found, data, engine=engine, workers=workers, address=address)
    copy = None
    if fix:
        from ..checks.repair import fix as repair

        copy = repair(audit, fix)
    if as_json:
        console.as_json(
            {
                **audit.to_json(),
                **({"changes": str(copy.log), "remaining": copy.remaining} if copy else {}),
            }
        )
    else:
        console.faults(audit)
    if copy and fix:
        console.repaired(copy, fix, task, as_json)
    if (audit.stops and not copy) or (copy and (copy.unusable or not copy.remaining)):
        raise typer.Exit(1)


@app.command(epilog="Example: fastseg lr eye --bs 4")
@with_fit_options(*(name for name in LEARNER_OPTIONS if name not in ("precision", "cache")))
def lr(
    task: TaskName,
    data: Data = None,
    *,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path], typer.Option("--out", help="PNG file [default: TASK_lr_find.png].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find a learning rate with fastai's range test: prints the suggestion, saves the plot."""
    from ..training.fit import find_lr

    suggestion, plot = find_lr(task, data, out=out, **options)
    if as_json:
        return console.as_json({"lr": float(f"{suggestion:.3g}"), "plot": str(plot)})
    typer.echo(
        f"suggested learning rate: {suggestion:.2e}  "
        f"(plot: {plot}; use it with: fastseg fit {task} --lr {suggestion:.2e})"
    )


@app.command(epilog="Example: fastseg fit eye --arch resnet34 --epochs 8")
@with_fit_options(*OPTIONS)
def fit(
    task: TaskName,
    data: Data = None,
    *,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Export folder to write [default: exports/TASK]."),
    ] = None,
    resume: Annotated[
        Optional[bool],
        typer.Option(
            "--resume/--no-resume",
            help="Resume an interrupted fit with its own options, or discard it.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        Optional[int],
        typer.Option(
            "--processes",
            min=1,
            help="Processes of this machine that share each batch, one for each GPU, with the "
            "steps of one process.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on a task's data by one-cycle and write the export: model, card, history, metrics,
    pictures.
    """
    if options["time_budget"] is not None and options["epochs"] is not None:
        raise typer.BadParameter("give either --epochs or --time-budget")
    from ..training.fit import fit as call

    if options["time_budget"] is not None:  # importing the libraries takes seconds, too
        elapsed = time.monotonic() - STARTED
        options["time_budget"] = max(SHORTEST_BUDGET, options["time_budget"] - elapsed)
    result = call(task, data, out=out, resume=resume, processes=processes, **options)
    if not _is_first_process():
        return
    if as_json:
        return console.as_json(result)
    console.figures(result["metrics"])
    decimals = 1 if result["seconds"] < 10 else 0
    typer.echo(
        f"weights: {result['weights']}; trained for {result['seconds']:.{decimals}f} s; "
        f"export: {result['export']}"
    )


@app.command(epilog="Example: fastseg evaluate eye --compare exports/eye_sgd --by group")
def evaluate(
    task: TaskOrExport,
    data: TrainedData = None,
    split: Split = "valid",
    export: Export = None,
    compare: Annotated[
        Optional[Path],
        typer.Option(
            "--compare",
            metavar="EXPORT",
            help="Another export: is the difference on these images significant?",
        ),
    ] = None,
    by: Annotated[
        Optional[str],
        typer.Option(
            "--by",
            metavar="COLUMN|group",
            help="Results by group (eye set, subject), source, "
            "split, folder, a column of --table, or what a regular expression finds in the "
            "file's name.",
        ),
    ] = None,
    table: Annotated[
        Optional[Path],
        typer.Option("--table", help="CSV or TSV file for --by, whose first column names images."),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            help="Folder for metrics.json and per_image.csv [default: evaluation in the export].",
        ),
    ] = None,
    device: Device = None,
    runtime: Runtime = "auto",
    precision: Precision = None,
    tta: Tta = None,
    trust: Trust = False,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    num_gpus: NumGpus = 0,
    as_json: Json = False,
) -> None:
    """Measure an export on labelled images, at original size: each class's figures over the
    dataset, with 95% intervals.
    """
    from ..evaluation.run import evaluate as call

    result = call(
        task,
        data,
        split=split,
        export=export,
        compare=compare,
        by=by,
        table=table,
        out=out,
        device=device,
        runtime=runtime,
        precision=precision,
        tta=tta,
        trust=trust,
        engine=engine,
        workers=workers,
        address=address,
        num_gpus=num_gpus,
    )
    if as_json:
        return console.as_json(result)
    console.figures(result)
    if by:
        console.groups(result["by"], by)
    if compare:
        typer.echo(result["comparison"]["verdict"])
    typer.echo(
        f"{result['images']} images ({result['split']}) of {result['data']}; "
        f"export: {result['export']}; "
        f"weights: {result['weights']}\n" + "\n".join(result["written"])
    )


@app.command(
    epilog="Example: fastseg study face --vary opt=adamw,sgd --vary lr=1e-4,1e-2 "
    "--together --seeds 3"
)
@with_fit_options("weights", "epochs", "size", "device")
def study(
    task: TaskName,
    data: Data = None,
    *,
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="OPTION=A,B,...",
            help="An option of fit and its values, such as "
            "opt=adamw,sgd; can be repeated. A single value fixes the option.",
        ),
    ],
    together: Annotated[
        bool,
        typer.Option("--together", help="Pair the values in order; do not try all combinations."),
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, help="How often each setting is trained.")
    ] = 3,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the study [default: exports/TASK_study]."),
    ] = None,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    num_gpus: NumGpus = 0,
    as_json: Json = False,
) -> None:
    """Train a grid of settings with several seeds; report the best, and whether its lead is
    significant. An interrupted study is resumed.
    """
    given = varied_options(vary)
    fixed = {**options, **{name: values[0] for name, values in given.items() if len(values) == 1}}
    from ..training.study import study as call

    result = call(
        task,
        data,
        vary={name: values for name, values in given.items() if len(values) > 1},
        together=together,
        seeds=seeds,
        out=out,
        engine=engine,
        workers=workers,
        address=address,
        num_gpus=num_gpus,
        **{name: value for name, value in fixed.items() if value is not None},
    )
    if as_json:
        return console.as_json(
            {
                "settings": result.settings,
                "comparisons": result.comparisons,
                "verdicts": result.verdicts,
                "files": [str(file) for file in result.files],
            }
        )
    console.table(
        ("setting", "mean", "std over seeds", "seeds"),
        [
            (name, row["mean"], row["std"], ", ".join(f"{v:.4f}" for v in row["values"]))
            for name, row in result.settings.items()
        ],
    )
    typer.echo("\n".join([*result.verdicts, *map(str, result.files)]))


@app.command(epilog="Example: fastseg tune eye --trials 30 --time-budget 2h")
@with_fit_options("weights", "epochs", "size", "seed", "device")
def tune(
    task: TaskName,
    data: Data = None,
    *,
    trials: Annotated[
        int, typer.Option("--trials", help="How many settings are tried in total.")
    ] = 30,
    time_budget: Annotated[
        Optional[str],
        typer.Option(
            "--time-budget",
            metavar="TIME",
            help="Total time, such as 30m or 2h, with the comparison at the end.",
        ),
    ] = None,
    vary: Annotated[
        Optional[list[str]],
        typer.Option(
            "--vary",
            metavar="OPTION=A,B,...",
            help="What is searched in place of the default, such as lr=1e-4,1e-2 (a range) or "
            "arch=resnet18,resnet34; can be repeated. A single value fixes the option.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Seeds of the comparison with the recipe.")
    ] = 3,
    options: dict[str, Any],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the search [default: exports/TASK_tune]."),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Write the best setting into the [recipe] of the task.toml, if it is clearly "
            "better.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --write: even if it is not clearly better.")
    ] = False,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    num_gpus: NumGpus = 0,
    as_json: Json = False,
) -> None:
    """Search for a better setting than the task's recipe, by images of the training part alone;
    compare both on held-out images. An interrupted search is resumed.
    """
    if force and not write:
        raise typer.BadParameter("--force is for --write")
    budget = read_value(OPTIONS["time_budget"], time_budget)
    from ..training.tune import tune as call

    if budget is not None:  # importing the libraries takes seconds, too
        budget = max(SHORTEST_BUDGET, budget - (time.monotonic() - STARTED))
    result = call(
        task,
        data,
        trials=trials,
        time_budget=budget,
        vary=varied_options(vary or []),
        seeds=seeds,
        out=out,
        write=write,
        force=force,
        engine=engine,
        workers=workers,
        address=address,
        num_gpus=num_gpus,
        **{name: value for name, value in options.items() if value is not None},
    )
    if as_json:
        return console.as_json(
            {
                "best": result.best,
                "search": result.search,
                "held_out": result.held_out,
                "is_better": result.is_better,
                "verdict": result.verdict,
                "command": result.command,
                "written": str(result.written) if result.written else None,
                "trials": result.trials,
                "files": [str(file) for file in result.files],
            }
        )
    console.tuned(result)


@app.command(epilog="Example: fastseg predict kitchen test/")
def predict(
    task: TaskOrExport,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Image files, folders or globs; also manifests (.csv, .tsv, .parquet), .zip, .tar "
            "shards, and URLs of them such as s3://bucket/photos.",
        ),
    ],
    out: Annotated[
        Optional[str],
        typer.Option(
            "--out",
            help="Folder or URL for masks and predictions.csv, or file for one mask alone or "
            "the table "
            "[default: FOLDER_inf_masks, or FOLDER_inf_subjects.tsv].",
        ),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write overlays too, in the subfolder overlays.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write calibrated probabilities too, float16, as npz files "
            "in the subfolder probabilities.",
        ),
    ] = False,
    format: Annotated[
        Optional[str],
        typer.Option(
            "--format",
            help="Write labels to correct too, in the subfolder of this name, with copies of the "
            "images: coco, cvat, labelme, labelstudio, yolo, voc or png.",
        ),
    ] = None,
    error_rate: Annotated[
        float,
        typer.Option(
            "--error-rate",
            help="Largest mean error that predictions without review may have, "
            "0.01 to 0.5; sets the needs_review column of predictions.csv.",
        ),
    ] = 0.1,
    export: Export = None,
    device: Device = None,
    runtime: Runtime = "auto",
    precision: Precision = None,
    tta: Tta = None,
    trust: Trust = False,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    num_gpus: NumGpus = 0,
    pack: Annotated[
        bool, typer.Option("--pack", help="In shards: write one tar file of masks for each shard.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a mask for each image, at its own size and under its own name, in the task's own
    format, and predictions.csv.

    With --engine or --workers, and for URLs, manifests and archives, images are predicted in
    shards, for any number of them; the same command continues a run that was stopped.
    """
    from ..inference.batch import predict as call

    written = call(
        task,
        paths,
        out,
        overlay=overlay,
        probabilities=probabilities,
        format=format,
        error_rate=error_rate,
        export=export,
        device=device,
        runtime=runtime,
        precision=precision,
        tta=tta,
        trust=trust,
        engine=engine,
        workers=workers,
        address=address,
        num_gpus=num_gpus,
        pack=pack,
    )
    if as_json:
        return console.as_json(
            {
                "written": [str(path) for path in written],
                "skipped": [str(path) for path in written.skipped],
                **({"run": asdict(written.run)} if written.run else {}),
            }
        )
    if written.run:
        return console.sharded(written.run)
    # A table of classes may be a .csv file, too; predictions.csv and failed.csv go with any result.
    beside = [path for path in written if path.name.endswith(("predictions.csv", "failed.csv"))]
    listed = {path.parent for path in beside} or {path.parent for path in written[:1]}
    masks = [path for path in written if path.parent in listed and path not in beside]
    folders = sorted({str(path.parent) for path in masks})
    typer.echo(
        (str(masks[0]) if len(masks) == 1 else f"{len(masks)} files in {', '.join(folders)}")
        + (f", overlays in {masks[0].parent / 'overlays'}" if overlay else "")
        + (f", probabilities in {masks[0].parent / 'probabilities'}" if probabilities else "")
        + (f", labels to correct in {masks[0].parent / format}" if format else "")
    )


@app.command(epilog="Example: fastseg interpret eye")
def interpret(
    task: Annotated[
        Optional[str],
        typer.Argument(
            metavar="[TASK]",
            help="A task's name, or the folder of an export [default: the newest export].",
        ),
    ] = None,
    data: TrainedData = None,
    export: Export = None,
    split: Split = "valid",
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder for page and pictures [default: the export's]."),
    ] = None,
    device: Device = None,
    runtime: Runtime = "auto",
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """Show where an export is right and wrong, and which labels may be wrong: a report page,
    pictures for papers, tables.
    """
    from ..report.results import interpret as call

    result = call(
        task,
        data,
        export=export,
        split=split,
        out=out,
        device=device,
        runtime=runtime,
        precision=precision,
    )
    if as_json:
        return console.as_json(
            {
                "export": str(result.folder),
                "files": [str(f) for f in result.files],
                "metrics": result.metrics,
                "losses": result.losses,
            }
        )
    review = (
        f"{len(result.needing_review())} of which a person should look at"
        if result.card.review
        else "with no review thresholds"
    )
    typer.echo(f"{len(result.images)} images ({split}), {review}")
    for true, predicted, share in result.most_confused(0.001)[:3]:
        typer.echo(
            f"  {share:.1%} of {console.printable(true)} is taken for "
            f"{console.printable(predicted)}"
        )
    for file in result.files:
        typer.echo(file)


@app.command(epilog="Example: fastseg segment room.jpg --surname Doe --name Jane")
def segment(
    file: Annotated[Optional[Path], typer.Argument(metavar="[FILE]", help="An image file.")] = None,
    url: Annotated[
        Optional[str],
        typer.Option("--url", help="An image's http or https address, instead of FILE."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture.")] = Path("output"),
    surname: Annotated[
        Optional[str], typer.Option("--surname", help="First part of the file name.")
    ] = None,
    name: Annotated[
        Optional[str], typer.Option("--name", help="Second part of the file name.")
    ] = None,
    export: Annotated[
        Optional[Path],
        typer.Option(
            "--export",
            help="Export of any task with masks [default: exports/surfaces].",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = "cpu",
    runtime: Runtime = "auto",
    precision: Precision = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Let --url reach private addresses.")
    ] = False,
    tiles: Annotated[
        Optional[int],
        typer.Option(
            "--tiles",
            min=1,
            max=8,
            help="Number of tiles per side: finer outlines of "
            "large photographs [default: by its size].",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Mark the classes of an export on one photograph, by default walls, floor and dining tables;
    prints the share of each class, and with --json each region.
    """
    if (file is None) == (url is None):
        raise typer.BadParameter("give either FILE or --url")
    from ..inference.photo import segment as call

    result = call(
        file,
        url=url,
        out=out,
        surname=surname,
        name=name,
        export=export,
        device=device,
        allow_private=allow_private,
        tiles=tiles,
        runtime=runtime,
        precision=precision,
    )
    if as_json:
        return console.as_json(
            {
                "file": str(result.path),
                "height": result.size[0],
                "width": result.size[1],
                "shares": result.shares,
                "regions": [region.to_json() for region in result.regions()],
            }
        )
    for label, share in result.shares.items():
        typer.echo(f"{label:14} {share:6.1%}")
    typer.echo(result.path)


@app.command(epilog="Example: fastseg masks face photos/ --preview")
def masks(
    task: TaskName,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder of pictures of faces, or in the task's own layout."
        ),
    ],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the dataset to make [default: data/TASK]."),
    ] = None,
    region: Annotated[
        str, typer.Option("--region", help="iris: whole circles; eye: what lies between the lids.")
    ] = "iris",
    edge: Annotated[
        str,
        typer.Option("--edge", help="hard: 0 and 255; soft: how much of each pixel is covered."),
    ] = "hard",
    rounding: Annotated[
        str,
        typer.Option(
            "--rounding",
            help="subpixel, or published: truncated to whole pixels, as the published "
            "masks of this task were.",
        ),
    ] = "subpixel",
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Write picture, landmarks and mask side by side, in the subfolder preview.",
        ),
    ] = False,
    valid: Annotated[
        float, typer.Option("--valid", help="Share of the pictures to validate with.")
    ] = 0.2,
    test: Annotated[
        float, typer.Option("--test", help="Share of the pictures for a test folder.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MAX_SEED, help="Which pictures go where.")
    ] = 42,
    as_json: Json = False,
) -> None:
    """Make masks of the eyes in pictures of faces by mediapipe's landmarks, split and ready to fit;
    needs the extra face.
    """
    from ..importers.face_masks import make_masks

    made = make_masks(
        task,
        folder,
        out,
        region=region,
        edge=edge,
        rounding=rounding,
        preview=preview,
        valid=valid,
        test=test,
        seed=seed,
    )
    if as_json:
        return console.as_json(
            {
                "out": str(made.out),
                "splits": made.splits,
                "eyes": made.eyes,
                "rejected": made.rejected,
            }
        )
    if made.rejected:
        typer.echo(
            f"{sum(made.rejected.values())} pictures have no mask, "
            f"see {made.out / 'rejected.csv'}: "
            + ", ".join(f"{count} {reason}" for reason, count in sorted(made.rejected.items()))
        )
    typer.echo(
        f"{made.eyes} eyes in {sum(made.splits.values())} pictures are in {made.out} ("
        + ", ".join(f"{count} {split}" for split, count in made.splits.items())
        + f"); next: fastseg fit {task} --data {typed(made.out)}"
    )


@app.command(epilog="Example: fastseg convert eye eye_coco --to coco")
def convert(
    source: TaskName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="png (masks of class codes), voc, coco, cvat, labelme, labelstudio or yolo.",
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write a task's images and masks in the format of another tool, with a task.toml, to a new
    folder.
    """
    from ..importers.conversion import convert as call

    made = call(source, out, to, data)
    if as_json:
        return console.as_json(
            {
                "out": str(made.out),
                "format": made.format,
                "images": made.images,
                "splits": made.splits,
                "files": [str(file) for file in made.files],
            }
        )
    from ..tasks.base import reference_of

    counts = ", ".join(f"{count} {split}" for split, count in made.splits.items() if split)
    typer.echo(
        f"{made.images} images are in {made.out}"
        + (f" ({counts})" if counts else "")
        + f"; next: fastseg fit {reference_of(made.out)}"
    )


@app.command(epilog="Example: fastseg adopt surfaces")
def adopt(
    task: TaskName,
    source: Annotated[
        Optional[str],
        typer.Option(
            "--from",
            metavar="ID|DIR|FILE",
            help="Model on the hub, or a folder (or the "
            "safetensors file in one) that segmentation-models-pytorch's save_pretrained wrote "
            "[default: smp-hub/upernet-convnext-tiny].",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Export folder to write [default: exports/TASK]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a pretrained ADE20K model as an export; its 150 classes become the task's: useful
    before anything is trained.
    """
    from ..importers.smp_hub import FREE
    from ..importers.smp_hub import adopt as call

    result = call(task, source or FREE, out)
    if as_json:
        return console.as_json(
            {"export": str(result.export), "model": result.model, "licence": result.licence}
        )
    typer.echo(
        f"{result.export}: {result.model}, from {source or FREE}; "
        f"licence of its weights: {result.licence}\n"
        "next: fastseg segment FILE, or train on from it: "
        f"fastseg fit {task} --weights {result.export} --out exports/{task}_tuned"
    )


@app.command(epilog="Example: fastseg gather surfaces opensurfaces/ --out data/opensurfaces")
def gather(
    task: TaskName,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="OpenSurfaces or Open Images as distributed.")
    ],
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help="Folder of the dataset to make [default: data/TASK]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert OpenSurfaces or Open Images to the task's codes; all else becomes unlabelled."""
    from ..importers.surfaces import gather as call

    made = call(task, folder, out)
    if as_json:
        return console.as_json(
            {
                "out": str(made.out),
                "source": made.source,
                "images": made.images,
                "pixels": made.pixels,
            }
        )
    counts = ", ".join(f"{name} {count:,} px" for name, count in made.pixels.items())
    typer.echo(
        f"{made.images} pictures of {made.source} are in {made.out} ({counts}); "
        f"next: fastseg fit {task} --data {typed(made.out)}"
    )


def main() -> None:
    """Run the command line. SIGTERM acts like Ctrl-C, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 1  # exit code if Python itself prints an exception
    if _is_command_line_process():
        atexit.register(lambda: _exit_at_once(status))  # registered first, so it is called last
    try:
        app()
    except SystemExit as end:
        status = int(end.code or 0)
        raise


def _is_command_line_process() -> bool:
    """Return whether this process is `fastseg` or `python -m fastseg`."""
    file = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return "fastseg" in (file.stem, file.parent.stem if file.stem == "__main__" else "")


def _exit_at_once(status: int) -> None:
    """End the process immediately.

    Otherwise Python spends two seconds on freeing the modules of torch, fastai and timm.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # the output is closed: Python's normal exit reports it
        return
    os._exit(status)


if __name__ == "__main__":
    main()

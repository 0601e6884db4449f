"""What data there are, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...learners.options import MAX_SEED
from ...utils.shell import typed
from .. import console, results
from ..arguments import Address, Data, Device, Engine, Export, Json, TaskName, Workers
from ..group import app


@app.command(epilog="Example: fastseg tasks")
def tasks(as_json: Json = False) -> None:
    """List the tasks: classes, the state of their data, newest export."""
    from ..status import overview

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
    from ...tasks import get

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
    from ...discovery.look import new as call

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
    results.found(made)


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
    from ...report.browse import show as call

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
    keep_copies: Annotated[
        bool,
        typer.Option(
            "--keep-copies",
            help="With --fix: keep pictures that are there twice, each with its own label.",
        ),
    ] = False,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Find what is wrong with a dataset: each fault with file, place and remedy. Exit code 1 if a
    fit would refuse it. A folder without task.toml is read as `fastseg new` would read it.
    """
    if keep_copies and not fix:
        raise typer.BadParameter("--keep-copies is for the copy that --fix OUT writes")
    from ...checks.dataset import check as call
    from ...tasks.declared import has_no_task

    found: Any = task
    if has_no_task(task):
        from ...discovery.look import undeclared

        found = undeclared(task)
    audit = call(found, data, engine=engine, workers=workers, address=address)
    copy = None
    if fix:
        from ...checks.repair import fix as repair

        copy = repair(audit, fix, keep_copies)
    if as_json:
        console.as_json(
            {
                **audit.to_json(),
                **({"changes": str(copy.log), "remaining": copy.remaining} if copy else {}),
            }
        )
    else:
        results.faults(audit)
    if copy and fix:
        results.repaired(copy, fix, task, as_json)
    if (audit.stops and not copy) or (copy and (copy.unusable or not copy.remaining)):
        raise typer.Exit(1)

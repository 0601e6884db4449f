"""The command line: each command parses, makes one public call, and prints. Nothing heavy is imported for help."""
from __future__ import annotations

import json
import logging
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from . import __version__
from .errors import FastsegError


class Commands(typer.core.TyperGroup):
    """A command group in which a user's mistake is one line on standard error and exit code 1."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except FastsegError as error:
            _say(f"error: {error}", "red")
        except KeyboardInterrupt:
            _say("interrupted; what was finished before is whole, nothing else was written", "yellow")
            raise typer.Exit(130) from None
        except MemoryError:
            _say("error: out of memory; lower --size, or --bs where the command has it", "red")
        except RuntimeError as error:
            if "out of memory" not in str(error).lower() and "can't allocate memory" not in str(error).lower():
                raise
            _say("error: out of memory; lower --size, or --bs where the command has it", "red")
        raise typer.Exit(1)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
                  rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]},
                  help="Train, judge and use segmenters and classifiers for small vision datasets.\n\n"
                       "Start with: fastseg sample eye, fastseg fit eye, fastseg interpret.")

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A task's name; fastseg tasks lists them.")]
Data = Annotated[Optional[Path], typer.Option("--data", help="Folder with the labelled images [default: data/TASK].")]
TrainedData = Annotated[Optional[Path], typer.Option("--data", help="Folder with the labelled images [default: the one "
                                                     "the export was trained on, data/TASK unless fit was told otherwise].")]
Export = Annotated[Optional[Path], typer.Option("--export", help="Export folder [default: exports/TASK].")]
Arch = Annotated[Optional[str], typer.Option("--arch", help="Backbone: any timm name [default: the task's recipe].")]
Decoder = Annotated[Optional[str], typer.Option("--decoder", help="light, unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, "
                                                "deeplabv3plus, pan, upernet, segformer or fastai [default: the task's recipe].")]
Weights = Annotated[str, typer.Option("--weights", help="auto (ImageNet, or random with a warning if out of reach), imagenet, "
                                      "none, or a .safetensors or .pth file.")]
Size = Annotated[Optional[str], typer.Option("--size", metavar="N|HxW", help="Size in px at which the model sees images "
                                             "[default: the task's recipe].")]
BatchSize = Annotated[Optional[int], typer.Option("--bs", min=1, help="Images in a batch [default: the task's recipe].")]
LossName = Annotated[Optional[str], typer.Option("--loss", help="ce, wce (class weights from the data), dice, focal, lovasz, tversky, "
                                                 "or a sum such as ce+dice [default: the task's recipe].")]
Opt = Annotated[Optional[str], typer.Option("--opt", help="adam, adamw, sgd, ranger, radam, lamb or rmsprop "
                                            "[default: the task's recipe].")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of split, weights and augmentation.")]
Device = Annotated[Optional[str], typer.Option("--device", help="cpu, cuda, cuda:1, mps [default: the best there is].")]
Precision = Annotated[Optional[str], typer.Option("--precision", help="float32 or bfloat16 [default: the quicker one here].")]
Tta = Annotated[Optional[bool], typer.Option("--tta/--no-tta", help="Average each image with its mirror image "
                                           "[default: the task's recipe].")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of a table.")]


@app.callback(invoke_without_command=True)
def start(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
          threads: Annotated[Optional[int], typer.Option("--threads", min=1, max=1024, help="Processor threads to compute with "
                                                         "[default: all cores].")] = None) -> None:
    if version:
        typer.echo(f"fastseg {__version__}")
        raise typer.Exit()
    if threads:
        import torch
        torch.set_num_threads(threads)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    package = logging.getLogger("fastseg")
    if not package.handlers:
        package.addHandler(_Lines())
        package.propagate = False
    package.setLevel(logging.INFO)
    # Deprecations inside the libraries are nothing that a user of the command line can mend.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|fastai|timm|huggingface_hub")


@app.command(epilog="Example: fastseg tasks")
def tasks(as_json: Json = False) -> None:
    """List the tasks: classes, where their data is expected and whether it is there, newest export."""
    from .overview import overview
    rows = overview()
    if as_json:
        return _json(rows)
    _table(("task", "kind", "classes", "data", "export"),
           [(r["task"], r["kind"], ", ".join(r["classes"]), r["data_state"], r["export"] or "none yet") for r in rows])


@app.command(epilog="Example: fastseg sample eye --n 40")
def sample(task: TaskName, folder: Annotated[Optional[Path], typer.Argument(metavar="[DIR]", help="Where to [default: data/TASK].")] = None,
           n: Annotated[int, typer.Option("--n", help="How many images.")] = 40,
           seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="The same seed gives the same images.")] = 0,
           as_json: Json = False) -> None:
    """Write a synthetic dataset in the task's real layout, to try everything before real data are there."""
    from .tasks import get
    found = get(task)
    folder = found.sample(folder or Path("data") / found.name, n, seed)
    if as_json:
        return _json({"task": found.name, "folder": str(folder), "images": n})
    typer.echo(f"{n} synthetic {found.name} images are in {folder}; next: fastseg fit {found.name}"
               + (f" --data {folder}" if folder != Path("data") / found.name else ""))


@app.command(epilog="Example: fastseg show eye --out eye.png")
def show(task: TaskName, data: Data = None,
         out: Annotated[Optional[Path], typer.Option("--out", help="PNG file [default: TASK_show.png].")] = None,
         rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of the grid.")] = 6,
         seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Which images are drawn.")] = 0,
         as_json: Json = False) -> None:
    """Draw a grid of images, masks and overlays, with a legend."""
    from .gallery import show as call
    picture = call(task, data, out=out, rows=rows, seed=seed)
    if as_json:
        return _json({"picture": str(picture)})
    typer.echo(picture)


@app.command(epilog="Example: fastseg lr eye --bs 4")
def lr(task: TaskName, data: Data = None, arch: Arch = None, decoder: Decoder = None, weights: Weights = "auto",
       size: Size = None, bs: BatchSize = None, loss: LossName = None, opt: Opt = None, seed: Seed = 42,
       device: Device = None, out: Annotated[Optional[Path], typer.Option("--out", help="PNG file [default: TASK_lr_find.png].")] = None,
       as_json: Json = False) -> None:
    """Find a learning rate with fastai's range test: prints the suggestion, saves the plot."""
    size = _size(size)
    from .fitting import find_lr
    suggestion, plot = find_lr(task, data, out=out, arch=arch, decoder=decoder, weights=weights, size=size, bs=bs,
                               loss=loss, opt=opt, seed=seed, device=device)
    if as_json:
        return _json({"lr": suggestion, "plot": str(plot)})
    typer.echo(f"suggested learning rate: {suggestion:.2e}  (plot: {plot}; use it with: fastseg fit {task} --lr {suggestion:.2e})")


@app.command(epilog="Example: fastseg fit eye --arch resnet34 --epochs 8")
def fit(task: TaskName, data: Data = None, arch: Arch = None, decoder: Decoder = None, weights: Weights = "auto",
        epochs: Annotated[Optional[int], typer.Option("--epochs", min=0, help="Epochs of the whole network "
                                                      "[default: the task's recipe].")] = None,
        lr: Annotated[Optional[str], typer.Option("--lr", help="Highest learning rate, or auto for the range test's "
                                                  "[default: the task's recipe].")] = None,
        freeze_epochs: Annotated[Optional[int], typer.Option("--freeze-epochs", min=0, help="Epochs of the head alone before them, "
                                                             "with pretrained weights [default: the task's recipe].")] = None,
        time_budget: Annotated[Optional[str], typer.Option("--time-budget", metavar="TIME", help="Time for it all, such as 90s, 10m or 1h, "
                                                           "in place of --epochs: a measured step plans epochs and size.")] = None,
        folds: Annotated[int, typer.Option("--folds", min=0, max=100, help="Train this many learners, each on another part held "
                                           "out, and export their ensemble.")] = 0,
        ema: Annotated[Optional[float], typer.Option("--ema", help="Average the weights over training steps: the share a step "
                                                     "keeps, such as 0.99 [default: the task's recipe].")] = None,
        windows: Annotated[Optional[float], typer.Option("--windows", help="Share of the epochs that see windows of half the image's "
                                                         "sides: quicker, for small objects [default: the task's recipe].")] = None,
        progressive: Annotated[Optional[float], typer.Option("--progressive", help="Share of the epochs that see the images at half size "
                                                             "[default: the task's recipe].")] = None,
        mixup: Annotated[Optional[float], typer.Option("--mixup", help="Mix pairs of images by a share drawn with this alpha, such as 0.2 "
                                                       "[default: the task's recipe].")] = None,
        patience: Annotated[Optional[int], typer.Option("--patience", min=0, help="End after so many epochs without a better score, "
                                                        "with the best weights [default: never].")] = None,
        size: Size = None, bs: BatchSize = None, loss: LossName = None, opt: Opt = None, seed: Seed = 42, device: Device = None,
        precision: Precision = None,
        cache: Annotated[Optional[int], typer.Option("--cache", min=0, metavar="MB", help="Memory for decoded images "
                                                     "[default: a quarter of the machine's].")] = None,
        out: Annotated[Optional[Path], typer.Option("--out", help="Export folder to write [default: exports/TASK].")] = None,
        as_json: Json = False) -> None:
    """Train on a task's data by one-cycle and write the export: model, card, history, metrics, pictures."""
    size = _size(size)
    budget = _seconds(time_budget)
    if budget is not None and epochs is not None:
        raise typer.BadParameter("give either --epochs or --time-budget")
    from .fitting import fit as call
    result = call(task, data, arch=arch, decoder=decoder, weights=weights, epochs=epochs, lr=lr, freeze_epochs=freeze_epochs,
                  time_budget=budget, folds=folds, ema=ema, windows=windows, progressive=progressive, mixup=mixup, patience=patience,
                  size=size, bs=bs, loss=loss, opt=opt, seed=seed, device=device, precision=precision,
                  cache=None if cache is None else cache * 2**20, out=out)
    if as_json:
        return _json(result)
    _metrics(result["metrics"])
    typer.echo(f"weights: {result['weights']}; trained for {result['seconds']:.0f} s; export: {result['export']}")


@app.command(epilog="Example: fastseg evaluate eye --split valid")
def evaluate(task: TaskName, data: TrainedData = None,
             split: Annotated[str, typer.Option("--split", help="valid (held out by fit), train, test or all.")] = "valid",
             export: Export = None, device: Device = None, tta: Tta = None, as_json: Json = False) -> None:
    """Measure an export on labelled images: scores of each class over the dataset, at original size."""
    from .evaluation import evaluate as call
    result = call(task, data, split=split, export=export, device=device, tta=tta)
    if as_json:
        return _json(result)
    _metrics(result)
    typer.echo(f"{result['images']} images ({result['split']}) of {result['data']}; export: {result['export']}; "
               f"weights: {result['weights']}")


@app.command(epilog="Example: fastseg predict kitchen test/")
def predict(task: TaskName, paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, folders or globs.")],
            out: Annotated[Optional[Path], typer.Option("--out", help="Folder for the masks, or file for one mask or the table "
                                                        "[default: FOLDER_inf_masks, or FOLDER_inf_subjects.tsv].")] = None,
            overlay: Annotated[bool, typer.Option("--overlay", help="Write overlays too, in the subfolder overlays.")] = False,
            export: Export = None, device: Device = None, tta: Tta = None, as_json: Json = False) -> None:
    """Write a mask for each image, at its own size and under its own name, in the task's own format."""
    from .prediction import predict as call
    written = call(task, paths, out, overlay=overlay, export=export, device=device, tta=tta)
    if as_json:
        return _json({"written": [str(path) for path in written]})
    masks = [path for path in written if path.parent.name != "overlays"]
    folders = sorted({str(path.parent) for path in masks})
    typer.echo((str(masks[0]) if len(masks) == 1 else f"{len(masks)} files in {', '.join(folders)}")
               + (", overlays in its subfolder overlays" if overlay else ""))


@app.command(epilog="Example: fastseg interpret eye")
def interpret(task: Annotated[Optional[str], typer.Argument(metavar="[TASK]", help="A task's name [default: the newest export's].")] = None,
              data: TrainedData = None, export: Export = None,
              out: Annotated[Optional[Path], typer.Option("--out", help="Folder for the pictures [default: the export's].")] = None,
              device: Device = None, as_json: Json = False) -> None:
    """Show where an export is right and wrong: results, worst images, confusion, bars and a report page."""
    from .interpretation import interpret as call
    result = call(task, data, export=export, out=out, device=device)
    if as_json:
        return _json({"export": str(result.folder), "files": [str(f) for f in result.files], "metrics": result.metrics,
                      "losses": result.losses})
    typer.echo(f"on the {len(result.losses)} images that training held out:")
    for true, predicted, share in result.most_confused(0.001)[:3]:
        typer.echo(f"  {share:.1%} of {true} is taken for {predicted}")
    for file in result.files:
        typer.echo(file)


@app.command(epilog="Example: fastseg segment room.jpg --surname Doe --name Jane")
def segment(file: Annotated[Optional[Path], typer.Argument(metavar="[FILE]", help="An image file.")] = None,
            url: Annotated[Optional[str], typer.Option("--url", help="An image's http or https address, instead of FILE.")] = None,
            out: Annotated[Path, typer.Option("--out", help="Folder for the picture.")] = Path("output"),
            surname: Annotated[Optional[str], typer.Option("--surname", help="First part of the file name.")] = None,
            name: Annotated[Optional[str], typer.Option("--name", help="Second part of the file name.")] = None,
            export: Annotated[Optional[Path], typer.Option("--export", help="Export folder [default: exports/surfaces].")] = None,
            device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = "cpu",
            allow_private: Annotated[bool, typer.Option("--allow-private", help="Let --url reach private addresses.")] = False,
            as_json: Json = False) -> None:
    """Lay walls, floor and dining tables over one photograph; prints the share of each class."""
    if (file is None) == (url is None):
        raise typer.BadParameter("give either FILE or --url")
    from .photo import segment as call
    result = call(file, url=url, out=out, surname=surname, name=name, export=export, device=device, allow_private=allow_private)
    if as_json:
        return _json({"file": str(result.path), "shares": result.shares})
    for label, share in result.shares.items():
        typer.echo(f"{label:14} {share:6.1%}")
    typer.echo(result.path)


def _size(text: str | None) -> tuple[int, int] | None:
    """Parse "256" or "240x320" (height x width)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if not match:
        raise typer.BadParameter(f"'{text}' is neither a side such as 256 nor a height x width such as 240x320", param_hint="--size")
    return int(match[1]), int(match[2] or match[1])


def _seconds(text: str | None) -> float | None:
    """Parse "90s", "10m", "1.5h" or plain seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise typer.BadParameter(f"'{text}' is not a time such as 90s, 10m or 1h", param_hint="--time-budget")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


class _Lines(logging.Handler):
    """Print the package's log records through the progress console, so that they do not break a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        _say(("warning: " if warning else "") + record.getMessage(), "yellow" if warning else None)


def _say(text: str, style: str | None = None) -> None:
    from .progress import console
    console.print(" ".join(text.split()), style=style, markup=False, highlight=False, soft_wrap=True)


def _json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _table(header: tuple[str, ...], rows: list[tuple]) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(("absent" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v)) for v in row))
    console = Console()
    if not console.is_terminal:  # a script reads whole lines
        console.width = max(console.width, 200)
    console.print(table)


def _metrics(result: dict) -> None:
    columns = list(next(iter(result["classes"].values())))
    rows = [(name, *values.values()) for name, values in result["classes"].items()]
    if "mean_foreground" in result:
        rows += [(title, "", *result[key].values()) for title, key in
                 (("mean, foreground", "mean_foreground"), ("mean, all classes", "mean_with_background"))]
    else:
        rows.append(("mean", "", *result["mean"].values()))
    _table(("class", *columns), rows)
    if "pixel_accuracy" in result:
        typer.echo(f"pixel accuracy {result['pixel_accuracy']:.4f}")
    else:
        auc = "absent (one class only)" if result["roc_auc"] is None else f"{result['roc_auc']:.4f}"
        typer.echo(f"accuracy {result['accuracy']:.4f}, ROC AUC {auc}, confusion (rows true, columns predicted) {result['confusion']}")


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(app())


if __name__ == "__main__":
    main()

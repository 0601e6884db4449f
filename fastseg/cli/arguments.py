"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..learners.options import OPTIONS

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
        help="A task's name, a folder with a task.toml, or an export: its folder or address.",
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
    Optional[str],
    typer.Option(
        "--export",
        help="Export: a folder, FILE.zip, hub:OWNER/NAME, or a URL [default: exports/TASK].",
    ),
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
        "--runtime",
        help="onnx, torch, or auto: the one that was measured to be faster here. onnx-int8: the "
        "8-bit model that fastseg export --to onnx-int8 wrote beside the export.",
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
Frames = Annotated[
    bool, typer.Option("--frames", help="Videos: write masks as PNG files, not as one video.")
]
Smooth = Annotated[
    float,
    typer.Option(
        "--smooth",
        help="Videos: seconds before and after a frame whose logits are averaged with its own, "
        "against flicker, up to 1.",
    ),
]
Limit = Annotated[
    Optional[float],
    typer.Option("--limit", help="Videos and cameras: stop after so many seconds."),
]
Ratio = Annotated[
    Optional[list[str]],
    typer.Option(
        "--ratio",
        metavar="CLASS/CLASS",
        help="Ratio of two classes' diameters, such as pupil/iris, or of other measures: "
        "pupil.area/iris.area. Can be repeated.",
    ),
]
Spacing = Annotated[
    Optional[str],
    typer.Option(
        "--spacing",
        metavar="MM|MMxMM",
        help="Distance of neighbouring pixels in mm: 0.1, or 0.1x0.2 (down x across).",
    ),
]
Level = Annotated[
    float, typer.Option("--level", help="Probability with which intervals hold, 0.5 to 0.999.")
]

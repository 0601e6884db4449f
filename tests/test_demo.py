"""The demo: training on 80 synthetic eyes gives a foreground Dice of 0.9 on new ones."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import rows_of

DEMO = (Path(__file__).parents[1] / "scripts" / "demo.sh").read_text()


@pytest.mark.slow
def test_the_demo_learns(run):
    commands = re.findall(r"^(?:\[ .* \|\| )?fastseg (.*)$", DEMO, re.M)
    assert [c.split()[0] for c in commands] == [
        "sample",
        "sample",
        "fit",
        "predict",
        "evaluate",
        "interpret",
    ]
    for command in commands:
        arguments = shlex.split(command.replace("$data", "data/demo"))
        result = run(*arguments, *(["--json"] if arguments[0] == "evaluate" else []))
        if arguments[0] == "evaluate":
            scores = json.loads(result.out)
    assert scores["images"] == 12 and scores["mean_foreground"]["dice"] >= 0.9
    # The split is large enough for the promise: some masks are let through without review.
    assert "False" in {row["needs_review"] for row in rows_of("demo_inf_masks/predictions.csv")}
    assert (
        len(list(Path("demo_inf_masks").glob("*.png"))) == 12
        and Path("exports/demo/report.html").is_file()
    )

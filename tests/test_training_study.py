"""study: settings that are compared, interrupted, refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ARCH, refuses

import fastseg
from fastseg import tasks

TINY = ["--vary", f"arch={ARCH}", "--weights", "none", "--size", "64", "--epochs", "1"]


@pytest.mark.slow
@pytest.mark.full_pictures
def test_study_trains_compares_and_resumes(samples, run, tmp_path):
    common = [
        "study",
        "eye",
        "--data",
        samples["eye"],
        "--vary",
        "opt=adamw,sgd",
        "--vary",
        "lr=1e-3,1e-2",
        *TINY,
    ]
    first = json.loads(run(*common, "--together", "--seeds", "1", "--json").out)
    assert (
        set(first["settings"]) == {"opt=adamw,lr=0.001", "opt=sgd,lr=0.01"}
        and len(first["verdicts"]) == 1
    )
    cards = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("exports/eye_study/*/*/card.json")
    }
    assert len(cards) == 2
    more = json.loads(run(*common, "--together", "--seeds", "2", "--json").out)
    assert all(len(row["values"]) == 2 for row in more["settings"].values())
    assert {path: path.stat().st_mtime_ns for path in cards} == cards  # not trained again
    assert (
        "interval" in more["verdicts"][0]
        and more["comparisons"][0]["interval"][0] <= more["comparisons"][0]["difference"]
    )
    assert Path("exports/eye_study/study.png").stat().st_size > 10_000
    assert len(Path("exports/eye_study/study.csv").read_text().splitlines()) == 5
    run(*common, "--vary", "bs=2", error="study-changed")


@pytest.mark.slow
def test_a_setting_that_diverges_does_not_end_the_study(samples, run, tmp_path, monkeypatch):
    # Cards in folders that share only a parent of the home folder do not say where the data are.
    shared = os.path.commonpath([samples["eye"], tmp_path])
    monkeypatch.setenv("HOME", os.path.join(shared, "home"))
    common = [
        "study",
        "eye",
        "--data",
        samples["eye"],
        "--vary",
        "lr=1e-3,1e30",
        "--seeds",
        "1",
        *TINY,
    ]
    found = json.loads(run(*common, "--json").out)
    assert (
        list(found["settings"]) == ["lr=0.001"]
        and "lr=1e+30 failed with seed 1: training diverged" in found["verdicts"][1]
    )
    run(
        "study",
        "eye",
        "--data",
        samples["eye"],
        "--vary",
        "lr=1e29,1e30",
        "--seeds",
        "1",
        "--out",
        "none",
        *TINY,
        code=1,
    )


def test_study_refuses_in_one_line(samples, run):
    common = ["study", "eye", "--data", samples["eye"]]
    near = run(*common, "--vary", "lrr=1,2", error="unknown-option-to-vary")
    assert near.details["suggested"][0] == "lr"
    run(*common, "--vary", "lr=1e-3,1e-3", error="nothing-varies")
    for values, code in (
        ("bs=4,x", "option-range"),
        ("bs=0,4", "option-range"),
        ("mixup=true,0.2", "option-range"),
        ("epochs=1.5,1", "option-range"),
        ("patience=-1,2", "option-range"),
        ("loss=ce,nope", "unknown-loss"),
        ("arch=1,2", "option-name"),
        ("opt=adamw,foo", "unknown-optimizer"),
        ("decoder=light,none", "unknown-decoder"),
        ("weights=none,missing.safetensors", "no-weights-file"),
        ("lr=0.0012345671,0.0012345672,0.1", "repeated-setting"),
    ):
        run(*common, "--vary", values, error=code)
    run(*common, "--vary", "lr=1,2", "--vary", "lr=3,4", code=2)
    pairs = ["--vary", "lr=1,2", "--vary", "bs=1,2,3", "--together"]
    run(*common, *pairs, error="study-lengths")
    assert "--seeds" in run(*common, "--vary", "seed=1,2", error="vary-seed").message
    run(*common, "--vary", "folds=2,3", error="unknown-option-to-vary")
    run(*common, "--vary", "lr", code=2)


@pytest.mark.slow
def test_processes_give_what_one_process_gives(samples, run):
    common = [
        *["study", "eye", "--data", samples["eye"], "--vary", "opt=adamw,sgd", "--seeds", "1"],
        *["--vary", "precision=float32", *TINY],
    ]
    run(*common, "--out", "one")
    run(*common, "--out", "two", "--workers", "2")
    one, two = (Path(name, "study.csv").read_text() for name in ("one", "two"))
    assert one == two.replace("two/", "one/") and len(one.splitlines()) == 3
    comparisons = [
        json.loads(Path(n, "study.json").read_text())["comparisons"] for n in ("one", "two")
    ]
    assert comparisons[0] == comparisons[1]


def test_engines_of_a_study_are_refused_in_one_line(samples, run):
    common = ["study", "eye", "--data", samples["eye"], "--vary", "opt=adamw,sgd", *TINY]
    run(*common, "--engine", "rai", error="unknown-engine")
    run(*common, "--workers", "0", error="option-range")
    run(*common, "--address", "auto", error="engine-options")


def test_workers_need_a_task_that_they_can_import(samples, tmp_path):
    changed = replace(tasks.get("eye"), classes=("skin", "white", "iris", "pupil"))
    with refuses("task-in-script", "eye"):
        fastseg.study(changed, samples["eye"], vary={"lr": [1, 2]}, out=tmp_path / "s", workers=2)

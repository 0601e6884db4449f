"""evaluate: what it writes, compares, groups and refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import missing

import fastseg


@pytest.mark.parametrize("name", ["eye", "mri"])
def test_evaluate_writes_and_compares(name, exports, samples, run, tmp_path):
    data = samples[name]
    said = json.loads(
        run(
            "evaluate",
            name,
            "--data",
            data,
            "--export",
            exports(name),
            "--split",
            "all",
            "--compare",
            exports(name),
            "--by",
            "group",
            "--out",
            "judged",
            "--json",
        ).out
    )
    task = fastseg.tasks.get(name)
    comparison = said["comparison"]  # of an export with itself
    assert task.main_value(comparison["difference"]) == 0
    assert task.main_value(comparison["intervals"]) == [0, 0]
    assert f"{0:+.4f}" in comparison["verdict"] and "better" not in comparison["verdict"]
    assert sum(part["images"] for part in said["by"].values()) == said["images"]
    written = json.loads(Path("judged/metrics.json").read_text())
    assert written["intervals"] == said["intervals"]
    rows = Path("judged/per_image.csv").read_text().splitlines()
    assert len(rows) == 1 + said["images"] * (
        len(fastseg.tasks.get(name).classes) + 1 if name == "eye" else 1
    )
    text = run(
        "evaluate",
        name,
        "--data",
        data,
        "--export",
        exports(name),
        "--split",
        "all",
        "--by",
        r"\d+$",
        "--out",
        "judged",
    ).out
    ends = task.main_value(written["intervals"])
    assert set(re.findall(r"\d\.\d{4}", text)) >= {f"{end:.4f}" for end in ends}
    regrouped = json.loads(Path("judged/metrics.json").read_text())["by"]
    rows = {tuple(line.split()[:2]) for line in text.splitlines() if line.strip()}
    assert rows >= {(group, str(part["images"])) for group, part in regrouped.items()}
    table = Path("ages.csv")
    items = fastseg.tasks.get(name).items(data)
    table.write_text(
        "image,age\n" + "\n".join(f"{item.image.name},{i % 3}" for i, item in enumerate(items))
    )
    by_age = json.loads(
        run(
            "evaluate",
            name,
            "--data",
            data,
            "--export",
            exports(name),
            "--split",
            "all",
            "--by",
            "age",
            "--table",
            table,
            "--out",
            "judged",
            "--json",
        ).out
    )["by"]
    assert set(by_age) == {"0", "1", "2"}
    assert ",group," in Path("judged/per_image.csv").read_text().splitlines()[0]


def test_a_table_of_groups_must_fit_the_images(exports, samples, run, fails):
    common = [
        "evaluate",
        "eye",
        "--data",
        samples["eye"],
        "--export",
        exports("eye"),
        "--split",
        "all",
        "--out",
        "judged",
    ]
    names = [item.image for item in fastseg.tasks.get("eye").items(samples["eye"])]
    for text, code, values in (
        (f"image,age\n{names[0].name},1\n{names[0].name},2\n", "repeated-row", [names[0].name]),
        ("image,age\nothers.jpg,1\n", "table-names-no-image", ["others.jpg"]),
        ("image\na.jpg\n", "no-such-column", ["age"]),
    ):
        Path("ages.csv").write_text(text)
        fails(*common, "--by", "age", "--table", "ages.csv", code=code, values=values)
    Path("ages.csv").write_text(f"image,age\n{names[0].stem},1,\n{names[1].name},,\n")
    found = run(*common, "--by", "age", "--table", "ages.csv", "--json")
    by_age = json.loads(found.out)["by"]
    assert {name: part["images"] for name, part in by_age.items()} == {
        "1": 1,
        "empty": 1,
        "not listed": len(names) - 2,
    }
    (warning,) = (line for line in found.err.splitlines() if line.startswith("warning: ages.csv: "))
    assert missing([len(names) - 2, len(names), "not listed"], warning) == []
    Path("ages.csv").write_text(
        f" image , age \nC:/elsewhere/{names[0].name}, 7\n"
    )  # as predictions.csv lists paths
    assert (
        json.loads(run(*common, "--by", "age", "--table", "ages.csv", "--json").out)["by"]["7"][
            "images"
        ]
        == 1
    )
    for text, code in (
        ("", "no-such-column"),
        ("image,age,age\na,1,2\n", "no-such-column"),
        ('image,age\n"a\x1b[31m', "table-names-no-image"),
    ):
        Path("ages.csv").write_text(text)
        fails(*common, "--by", "age", "--table", "ages.csv", code=code, values=["ages.csv"])
    name = next(path.stem for path in sorted((samples["eye"] / "imgs_small").iterdir()))
    fails(*common, "--by", "gruop", code="no-such-group", values=["gruop", name])
    Path("one.png").touch()
    fails(
        "evaluate",
        "eye",
        "--data",
        samples["eye"],
        "--export",
        exports("eye"),
        "--out",
        "one.png",
        code="out-is-file",
        values=["one.png"],
    )
    assert by_age["1"]["intervals"]["mean_foreground"]["dice"] is None  # one image shows no spread
    assert by_age["not listed"]["intervals"]["mean_foreground"]["dice"]


def test_missing_held_out_images_are_named(exports, samples, run, tmp_path):
    data = shutil.copytree(samples["eye"], tmp_path / "data")
    held_out = json.loads((exports("eye") / "card.json").read_text())["valid_files"]
    labels = {item.image: item.label for item in fastseg.tasks.get("eye").items(data)}

    def remove(name: str) -> None:
        (data / name).unlink()
        labels[data / name].unlink()

    remove(held_out[0])
    command = ["evaluate", "eye", "--data", data, "--export", exports("eye"), "--out", "judged"]
    found = run(*command, "--compare", exports("eye"), "--json")
    result = json.loads(found.out)
    assert result["missing"] == [held_out[0]] and result["images"] == len(held_out) - 1
    assert held_out[0] in found.err and "as asked" not in found.err
    for name in held_out[1:]:
        remove(name)
    run(*command, error="no-images-to-judge")


def test_the_table_of_figures_is_narrow_and_not_padded(exports, samples, run):
    shown = run("evaluate", "eye", "--data", samples["eye"], "--export", exports("eye")).out
    table = shown.partition("pixel accuracy 0")[0].splitlines()
    assert len(table) > 10 and max(map(len, table)) <= 100
    assert all(line == line.rstrip() for line in table)


def test_evaluate_refuses_in_one_line(exports, samples, fails):
    common = [
        "evaluate",
        "eye",
        "--data",
        samples["eye"],
        "--export",
        exports("eye"),
        "--split",
        "all",
    ]
    fails(*common, "--by", "(", code="no-such-group", values=["--by ("])
    fails(
        *common, "--by", "age", "--table", "none.csv", code="unreadable-table", values=["none.csv"]
    )
    fails(*common, "--compare", exports("mri"), code="wrong-task", values=["mri", "eye"])
    fails(*common, "--out", samples["eye"], code="output-in-data", values=["--out"])

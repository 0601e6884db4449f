"""README, guides and data notes: their commands run, their links and options exist."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import matplotlib
import pytest
import timm
import typer
from conftest import ARCH
from PIL import Image
from safetensors.torch import save_file
from video_clips import clip

import fastseg
from fastseg import tasks
from fastseg.cli.app import app
from fastseg.learners.options import OPTIONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / ".github" / "docs"
NOTEBOOK = DOCS / "walkthrough.ipynb"
README = (ROOT / "README.md").read_text()
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in [
        ROOT / "README.md",
        *sorted((ROOT / "data").glob("*/README.md")),
        *sorted(DOCS.glob("*.md")),
        *sorted((ROOT / ".github").glob("*.md")),
    ]
}
GROUP = typer.main.get_command(app)
COMMANDS = {c.name or c.callback.__name__ for c in app.registered_commands}


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, text) of all code blocks of a language."""
    pattern = re.compile(rf"^```{language}\b.*?\n(.*?)^```", re.M | re.S)
    return [(page, block) for page, text in PAGES.items() for block in pattern.findall(text)]


def fastseg_commands() -> list[str]:
    """Return the fastseg commands of all bash blocks, without their comments, each once."""
    lines = [
        line
        for _, block in blocks("bash")
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(r"(\w+=\S+ )*fastseg ", line)
    ]
    return sorted({shlex.join(shlex.split(line, comments=True)) for line in lines})


def parsed(command: str) -> tuple[dict[str, str], list[str]]:
    """Return the environment variables and the arguments of a command line."""
    words = shlex.split(command)
    at = words.index("fastseg")
    return dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]


def test_every_command_and_task_is_documented():
    shown = {word for command in fastseg_commands() for word in parsed(command)[1]}
    assert COMMANDS - shown == set()
    assert [t for t in tasks.names() if f"data/{t}/README.md" not in README] == []


def test_options_named_in_the_guides_exist():
    parameters = [p for c in [GROUP, *GROUP.commands.values()] for p in c.params]
    known = {option for p in parameters for option in [*p.opts, *p.secondary_opts]} | {"--help"}
    named = {
        (option, page)
        for page, text in PAGES.items()
        if page.startswith((".github/docs", "README"))
        for code in re.findall(r"`([^`\n]+)`", text)
        if not code.startswith(("pip ", "bash ", "pytest "))
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)
    }
    assert len(named) > 30
    assert {(option, page) for option, page in named if option not in known} == set()


@pytest.mark.parametrize("command", fastseg_commands())
def test_commands_parse(command):
    arguments = parsed(command)[1]
    context = GROUP.make_context("fastseg", list(arguments), resilient_parsing=True)
    # The group's own options stand before the command's name.
    at = next(i for i, word in enumerate(arguments) if word in COMMANDS)
    name, found, rest = GROUP.resolve_command(context, arguments[at:])
    found.make_context(name, rest)


# Commands that need what a test does not have, by a part of their text.
NOT_RUN = {
    "--resume": "needs an interrupted fit: test_training_resume.py",
    "--no-resume": "needs an interrupted fit: test_training_resume.py",
    "--from exports": "takes no small network: test_corrections_again.py",
    "--time-budget": "would take that long: test_training_options.py",
    "my_backbone.safetensors": "needs weights",
    "from_a_colleague": "needs another export: test_exports.py",
    "fastseg adopt": "needs a hub: test_importers_hub.py",
    "--weights exports/surfaces": "needs an adopted model: test_importers_hub.py",
    "fastseg masks": "needs the extra face: test_importers_landmarks.py",
    "fastseg gather": "needs a dataset as distributed: test_importers_surfaces.py",
    "--url": "needs a network: test_inference_download.py",
    "s3://": "needs an object store: test_predict_ray.py",
    "--address": "needs a cluster: test_predict_ray.py",
    "--processes": "starts processes: test_training_distributed.py",
    "--workers": "starts processes: test_predict_sharded.py",
    "FASTSEG_TASKS=": "needs a process of its own: test_task_files.py",
    "fastseg serve": "runs until it is ended: test_serving.py",
    "fastseg app": "runs until it is ended: test_webapp_training.py",
    "fastseg restore": "needs an earlier export: test_corrections_again.py",
    "hub:me": "needs a hub: test_sharing.py",
    "--export eye.zip": "needs a packed export: test_sharing.py",
    "--runtime onnx-int8": "needs an 8-bit model: test_conversion.py",
    "--to html": "needs npm and a network: test_conversion_html_browser.py",
    "fastseg add": "needs a corrections.zip: test_corrections_incoming.py",
    "fastseg tune": "needs many fits: test_training_tune.py",
    "--track": "tells trackers: test_tracking.py",
    "fastseg study": "needs many fits: test_training_study.py",
    "camera:0": "needs a camera: test_video.py",
}
SMALL = ["--arch", ARCH, "--weights", "none", "--size", "64", "--bs", "4"]
MORE_ARGUMENTS = {"fit": [*SMALL, "--epochs", "1"], "lr": SMALL}


def runnable() -> list:
    """Return the commands that run on the samples."""
    long = re.compile("fastseg lr|--measure|--unlabelled|interpret .*--split all")
    return [
        pytest.param(command, marks=[pytest.mark.slow] if long.search(command) else [])
        for command in fastseg_commands()
        if not any(part in command for part in NOT_RUN)
    ]


@pytest.fixture(scope="session")
def roof(tmp_path_factory):
    """The task.toml of the guide with a synthetic sample, and an export of it."""
    root = tmp_path_factory.mktemp("roof")
    text = next(block for _, block in blocks("toml") if 'name = "roof"' in block)
    (root / "task.toml").write_text(text)
    data = tasks.get(root).sample(root / "data", n=12)
    (data / "task.toml").write_text(text)
    options = dict(arch=ARCH, weights="none", size=64, bs=4, epochs=1)
    fastseg.fit(data, out=root / "export", **options)
    return root


def place_videos(text: str, folder: Path, images: list[Path]) -> None:
    """Write the videos and numbered images that a guide's commands name."""
    if "clip.mp4" in text:
        clip(folder / "clip.mp4")
    if "masks.mkv" in text:
        (folder / "results/clip").mkdir(parents=True)
        clip(folder / "results/clip/masks.mkv", codec="ffv1", layout="bgr0")
    if "numbered/" in text:
        (folder / "numbered").mkdir()
        for number, image in enumerate(images[:3]):
            Image.open(image).save(folder / "numbered" / f"{number:05d}.png")


@pytest.fixture
def workspace(tmp_path, samples, exports, request):
    """A folder with the data, exports and images that the guides' commands name."""

    def prepared(text: str) -> Path:
        data, made = tmp_path / "data", tmp_path / "exports"
        data.mkdir()
        made.mkdir()
        for name in tasks.names():
            if re.search(r"Corrections|--from|fastseg (app|label)", text):  # labels are saved
                shutil.copytree(samples[name], data / name)
            else:
                data.joinpath(name).symlink_to(samples[name])
            if name in ("eye", "mri") and re.search(rf"\b{name}\b|fastseg interpret", text):
                shutil.copytree(exports(name), made / name)
        if "eye_old" in text:
            shutil.copytree(exports("eye"), made / "eye_old")
        if "fastseg segment" in text:
            shutil.copytree(exports("surfaces"), made / "surfaces")
        if re.search(r"\b(roof|labelled)/|exports/roof", text):
            made_by = request.getfixturevalue("roof")
            shutil.copytree(made_by / "data", tmp_path / "roof")
            shutil.copytree(made_by / "data", tmp_path / "labelled")
            shutil.copytree(
                made_by / "export", made / ("roofs" if "exports/roofs" in text else "roof")
            )
            shutil.copytree(made_by / "data/val/images", tmp_path / "photos")
        if re.search(r"\broofs\b", text):
            made_by = request.getfixturevalue("roof")
            ignored = shutil.ignore_patterns("task.toml")
            shutil.copytree(made_by / "data", tmp_path / "roofs", ignore=ignored)
            if "fastseg new" not in text:
                fastseg.new(tmp_path / "roofs")
        images = sorted((samples["eye"] / "imgs_small").iterdir())
        (tmp_path / "my_photos").mkdir()
        photos = images
        if re.search("(next|unlabelled) my_photos", text):  # images of the data are left out
            others = fastseg.tasks.get("eye").sample(tmp_path / "others", seed=9)
            photos = sorted((others / "imgs_small").iterdir())
        for image in photos[:3]:
            shutil.copy(image, tmp_path / "my_photos")
        place_videos(text, tmp_path, images)
        shutil.copy(images[0], tmp_path / "one.jpg")
        shutil.copy(images[0], tmp_path / "room.jpg")
        shutil.copy(images[0], tmp_path / "photo.jpg")
        return tmp_path

    return prepared


@pytest.mark.parametrize("command", runnable())
def test_commands_run(command, run, workspace, monkeypatch):
    variables, arguments = parsed(command)
    name = next(word for word in arguments if word in COMMANDS)
    folder = workspace(command)
    if name == "sample":  # writes the data
        (folder / "data" / arguments[-1]).unlink()
    if name in ("fit", "lr") and (folder / "exports").is_dir():
        shutil.rmtree(folder / "exports")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    more = list(MORE_ARGUMENTS.get(name, []))  # the last one of an option counts
    if "--folds" in arguments:
        more += ["--folds", "2"]
    if "--freeze" in arguments:  # it refuses random weights
        save_file(timm.create_model(ARCH).state_dict(), folder / "backbone.safetensors")
        more += ["--weights", "backbone.safetensors"]
    assert run(*arguments, *more).out


def test_what_is_not_run_has_a_reason():
    """Each reason applies to a command, and names a test file that exists."""
    commands = fastseg_commands()
    for part, why in NOT_RUN.items():
        assert any(part in command for command in commands), part
        for file in re.findall(r"test_\w+\.py", why):
            assert (ROOT / "tests" / file).is_file(), file


PYTHON = [
    pytest.param(
        block,
        id=f"{page}-{number}",
    )
    for number, (page, block) in enumerate(blocks("python"))
    if page.startswith((".github/docs", "README")) and "SegmentationTask(" not in block
]


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run(block, workspace, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(workspace(block))
    small = block.replace('arch="resnet34"', f'arch="{ARCH}", weights="none", size=64, bs=4')
    small = small.replace("fit_one_cycle(8", "fit_one_cycle(1")
    assert (small != block) == ("fit_one_cycle" in block)
    exec(compile(small, "block", "exec"), {})


def test_the_task_file_is_the_same_in_readme_and_guide():
    """tests/test_task_files.py runs the README's."""
    shown = [block for _, block in blocks("python") if 'name="roof"' in block]
    assert len(shown) == 2

    def code(block):
        return re.sub(r"\s*#.*", "", block).split()

    assert code(shown[0]) == code(shown[1])


def test_the_training_guide_has_every_field_of_a_recipe():
    """The fields that are no option, with their defaults."""
    text = PAGES[".github/docs/training.md"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`.*?) \|", text, re.M)
    shown = {}
    for names, values in rows:
        names, values = re.findall(r"`(\w+)`", names), re.findall(r"`(.+?)`", values)
        shown |= dict(zip(names, map(ast.literal_eval, values), strict=True))
    recipe = tasks.Recipe(size=(64, 64))
    fields = {name: value for name, value in vars(recipe).items() if name not in OPTIONS}
    assert shown == fields


def test_messages_in_troubleshooting_are_those_of_the_code():
    source = "".join(
        str(node.value)
        for file in sorted((ROOT / "fastseg").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
    )
    text = PAGES[".github/docs/troubleshooting.md"]
    messages = re.findall(r"^\| `(.+?)` \|", text, re.M)
    assert len(messages) > 6
    parts = [part for message in messages for part in message.split("...") if part.strip()]
    assert [part for part in parts if part.strip() not in source] == []


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them: lower case, hyphens."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?) *$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_pictures_and_headings_exist():
    """Links between the pages; of other sites, nothing is fetched."""
    links = [(page, to) for page in PAGES for to in re.findall(r"\]\(([^)\s]+)\)", PAGES[page])]
    assert any("#" in target for _, target in links)
    for page, target in links:
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent.joinpath(name) if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path.read_text()), f"{page}: {target}"


def test_the_reference_has_every_public_name():
    """The other entries name what is there; `mkdocs_hooks` finds the public names' modules."""
    text = PAGES[".github/docs/reference.md"]
    public = re.findall(r"^::: fastseg\.(\w+)$", text, re.M)
    assert sorted([*public, "tasks"]) == sorted(fastseg.__all__)
    others = re.findall(r"^::: (fastseg\.\w+\.\S+)$", text, re.M)
    assert "fastseg.tasks.get" in others
    for path in others:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path


def test_type_checkers_see_every_public_name():
    stub = ast.parse((ROOT / "fastseg" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.module]
    found = {alias.asname: node.module for node in imports for alias in node.names}
    assert found == fastseg._MODULE_OF


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    copy = shutil.copy(NOTEBOOK, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbmake", str(copy)],
        cwd=tmp_path,  # not the repository's pytest options
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_docs_build_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    site, config = tmp_path / "docs", ROOT / ".github" / "mkdocs.yml"
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*mkdocs, "--site-dir", str(site), "--config-file", str(config)],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    reference = (site / "reference.html").read_text()
    assert "fastseg.unet_learner" in reference
    assert all(f"<code>{name}</code>" in reference for name in OPTIONS)
    for page in site.glob("*.html"):  # nothing is fetched from elsewhere
        assert not re.search(r"<(script|link|img)[^>]+=\"https?://", page.read_text()), page.name


def test_the_changelog_has_the_version():
    assert f"## {fastseg.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", [n for n in tasks.names() if (ROOT / "data" / n).is_dir()])
def test_data_notes_name_layout_classes_and_counts(name, samples):
    text = (ROOT / "data" / name / "README.md").read_text()
    layout = re.search(r"^\*\*Layout\.\*\*.*?^```text\n(.*?)^```", text, re.M | re.S)[1]
    item = tasks.get(name).items(samples[name])[0]
    for file in (item.image, item.label):
        if isinstance(file, Path):
            assert f"{file.relative_to(samples[name]).parent.as_posix()}/" in layout
    for label in "+".join(tasks.get(name).classes).split("+"):  # kitchen has "pan+background"
        assert re.search(rf"\b{label}\b", text), label
    assert re.search(r"^\*\*Counts to expect\.\*\* .*(\d|fastseg tasks)", text, re.M)
    assert f"fastseg sample {name}" in text


def test_top_level_is_as_promised():
    visible = {
        p
        for p in subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
        ).stdout.split()
        if p[0] != "."
    }
    tops = {p.split("/")[0] for p in visible}
    assert tops <= {
        "fastseg",
        "scripts",
        "data",
        "exports",
        "tests",
        "setup.py",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "pyproject.toml",
    }


@pytest.mark.parametrize("script", ["setup.sh", "demo.sh", "test.sh", "docs.sh"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True)


def test_scripts_say_in_one_line_what_is_missing(tmp_path):
    """The one fault that a test can cause without changing the machine: no python."""
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "demo.sh"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": str(tmp_path)},
    )
    assert (
        done.returncode == 1
        and len(done.stderr.strip().splitlines()) == 1
        and "has no python" in done.stderr
    )


def test_the_map_of_rooms_is_the_contract():
    """CONTRIBUTING lists the rooms in the order in which they import."""
    contract = re.search(r"^layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    text = PAGES[".github/CONTRIBUTING.md"]
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == re.findall(r'"(\w+)"', contract[1])[::-1]

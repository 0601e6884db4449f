"""Damaged and random input of every kind: a result or one line of error, no other exception.

A short run by default; HYPOTHESIS_PROFILE=long tries 2,000 cases of each test and more.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from datetime import timedelta
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from conftest import refuses
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import fastseg
from fastseg import tasks
from fastseg.checks.image import examine
from fastseg.cli.options import varied
from fastseg.data.images import read_image, read_near, read_raw
from fastseg.errors import DataError, ExportError, FastsegError, FetchError
from fastseg.evaluation.groups import group_function
from fastseg.exports.card import Card, read_card, sha256
from fastseg.inference import download
from fastseg.inference.loading import load
from fastseg.report.panels import short
from fastseg.training import checkpoint
from fastseg.utils.io import read_json

COMMON = dict(
    deadline=timedelta(seconds=10),
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
settings.register_profile("short", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=2000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

GOLDEN = Path(__file__).parent / "golden" / "mri_0.1.0"
EYE, MRI, KITCHEN = (tasks.get(name) for name in ("eye", "mri", "kitchen"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Flip, cut, repeat or replace some bytes."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        where = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(("flip", "cut", "drop", "repeat", "insert"))):
            case "flip" if found:
                found[where] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del found[where:]
            case "drop":
                del found[where : where + draw(st.integers(1, 64))]
            case "repeat":
                found[where:where] = found[where : where + draw(st.integers(1, 64))]
            case _:
                found[where:where] = draw(st.binary(min_size=1, max_size=16))
    return bytes(found)


@cache
def picture(kind: str) -> bytes:
    """A small image or mask in a format, as bytes."""
    image, codes = EYE.draw(np.random.default_rng(0))
    whole = Image.fromarray(image[::4, ::4].copy())
    buffer = io.BytesIO()
    forms = {
        "JPEG": whole,
        "PNG": Image.fromarray(codes[::4, ::4].copy()),
        "TIFF": whole,
        "WEBP": whole,
        "BMP": whole.convert("L"),
    }
    forms[kind].save(buffer, kind)
    return buffer.getvalue()


KINDS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp"}


@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_damaged_images(data, kind):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"x{KINDS[kind]}"
        path.write_bytes(content := data.draw(damaged(picture(kind))))
        for read in (
            read_image,
            read_raw,
            lambda p: read_near(p, (32, 32))[0],
            EYE.decode,
            KITCHEN.decode,
        ):
            try:
                assert read(path).dtype == np.uint8
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error)
        found = examine(EYE, tasks.Item(path, path))
        assert all("\n" not in str(fault) for fault in found.faults)
        assert json.loads(json.dumps(found.to_json()))
        assert path.read_bytes() == content


@given(st.data())
def test_damaged_images_among_whole_ones(data):
    """predict writes the intact ones, lists the others, and changes no input."""
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        images.mkdir()
        Image.fromarray(MRI.draw(np.random.default_rng(1), 1)[0]).save(images / "whole.png")
        (images / "damaged.png").write_bytes(
            data.draw(damaged((images / "whole.png").read_bytes()))
        )
        before = {path.name: path.read_bytes() for path in images.iterdir()}
        out = Path(name) / "out" / "subjects.tsv"
        try:
            fastseg.predict("mri", images, out, export=GOLDEN)
            expected = {"subjects.tsv", "predictions.csv"}
        except DataError as error:
            assert "damaged.png" in str(error)
            expected = {"subjects.tsv", "predictions.csv", "failed.csv"}
        assert {path.name for path in out.parent.iterdir()} == expected
        assert out.read_text().startswith("Subject\tLabel\n") and "whole\t" in out.read_text()
        assert {path.name: path.read_bytes() for path in images.iterdir()} == before


TABLE = b"Subject\tLabel\n" + b"".join(b"sub-%d\t%d\n" % (i, i % 2) for i in range(4))


@given(st.data())
def test_damaged_tables(data):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "mri"
        (root / "train").mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 40 * number).save(root / "train" / f"sub-{number}.png")
        table = root / "train" / "subjects.tsv"
        table.write_bytes(content := data.draw(damaged(TABLE)))
        try:
            assert all(isinstance(item.label, int) for item in MRI.items(root))
        except DataError as error:
            assert "\n" not in str(error)
        audit = fastseg.check("mri", root)
        assert json.loads(json.dumps(audit.to_json()))
        try:
            group_function("Label", table, MRI.items(root), root)
        except DataError as error:
            assert "\n" not in str(error)
        assert table.read_bytes() == content


@given(st.data(), st.sampled_from(sorted(Card.__dataclass_fields__)), JSON)
def test_cards_with_any_values(data, name, value):
    with tempfile.TemporaryDirectory() as folder:
        values = json.loads((GOLDEN / "card.json").read_text())
        target = values
        if name == "network" and data.draw(st.booleans()):
            target, name = values["network"], data.draw(st.sampled_from(sorted(values["network"])))
        target[name] = value
        (Path(folder) / "card.json").write_text(json.dumps(values))
        try:
            assert isinstance(read_card(folder), Card)
            shutil.copy(GOLDEN / "model.safetensors", folder)
            load(folder)
        except ExportError as error:
            assert "\n" not in str(error) and len(str(error)) < 600


@given(st.data())
def test_damaged_cards(data):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "card.json").write_bytes(
            data.draw(damaged((GOLDEN / "card.json").read_bytes()))
        )
        try:
            assert isinstance(read_card(folder), Card)
        except ExportError as error:
            assert "\n" not in str(error)


@given(st.data(), st.booleans())
def test_damaged_weights(data, vouched):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
        model = Path(folder) / "model.safetensors"
        whole = model.read_bytes()
        head = data.draw(damaged(whole[:4096]))  # names, shapes and offsets; the rest are numbers
        model.write_bytes(head + whole[4096:])
        if vouched:  # by a card that the stranger wrote, too
            card = json.loads((Path(folder) / "card.json").read_text())
            card["sha256"]["model.safetensors"] = sha256(model)
            (Path(folder) / "card.json").write_text(json.dumps(card))
        try:
            load(folder)
            assert vouched or model.read_bytes() == whole
        except ExportError as error:
            assert "\n" not in str(error)


@given(st.data())
def test_damaged_pickles_are_never_opened(data):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
        (Path(folder) / "export.pkl").write_bytes(data.draw(st.binary(max_size=200)))
        with refuses("untrusted-pickle", "--trust"):
            load(Path(folder) / "export.pkl")


@cache
def checkpoint_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        checkpoint.write(
            path, {"epoch": 1, "model": {"a": torch.ones(3)}, "random": (1, (2, 3), None)}
        )
        return path.read_bytes()


@given(st.data())
def test_damaged_checkpoints(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        path.write_bytes(data.draw(damaged(checkpoint_bytes())))
        try:
            checkpoint.read(path, torch.device("cpu"))
        except DataError as error:
            assert "\n" not in str(error)


@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_downloads_of_any_bytes(data, kind):
    content = data.draw(damaged(picture(kind)) | st.binary(max_size=300))
    before = download.download
    download.download = lambda *_: content
    try:
        assert download.fetch_image("http://example.org/x.jpg").shape[2] == 3
    except FetchError as error:
        assert "\n" not in str(error)
    finally:
        download.download = before


@given(st.text(max_size=60))
def test_addresses_of_any_text(text):
    for url in (text, f"http://{text}/a.jpg", f"http://127.0.0.1/{text}"):
        if "127.0.0.1" not in url and text.isascii() and "." in text:
            continue  # it might be a host's name
        try:
            download._require_public(url, allow_private=False)
        except FetchError as error:
            assert str(error)
        except UnicodeError as error:
            raise AssertionError(url) from error


@given(JSON | st.binary(max_size=60))
def test_any_json(value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        try:
            assert isinstance(read_json(path), dict)
        except FastsegError as error:
            assert "\n" not in str(error)


NAMES = (
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)
    | st.lists(
        st.sampled_from(("<script>", "<b ", "<!--", "-->", "&lt;", "&", '"', "'", ">", "x", " ")),
        min_size=1,
    ).map("".join)
).filter(lambda name: not name.startswith(".") and len(name.encode()) < 240)


class Page(HTMLParser):
    """The tags of a page with the names of their attributes, and its text without white space."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text = ""
        self.feed(page.read_text())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += "".join(data.split())


def named_dataset(root: Path, name: str) -> Path:
    """Write four labelled slices, the first of which has this name."""
    data = root / "mri" / "train"
    data.mkdir(parents=True)
    rows = []
    for stem in (name, "other", "third", "fourth"):
        image, _ = MRI.draw(np.random.default_rng(len(rows)), len(rows) % 2)
        Image.fromarray(image).save(data / f"{stem}.png")
        rows.append(f"{stem}\t{len(rows) % 2}")
    (data / "subjects.tsv").write_text("Subject\tLabel\n" + "\n".join(rows) + "\n", newline="")
    return data


@cache
def tags_of_a_plain_page() -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as root:
        data = named_dataset(Path(root), "plain")
        return Page(fastseg.show("mri", data.parent, out=Path(root) / "page.html")).tags


@given(NAMES)
@example("<script>alert(1)<b x='\"")
def test_names_of_any_text_are_text_on_pages(name):
    """Names survive predict and its tables, and add no tag or attribute to a page."""
    with tempfile.TemporaryDirectory() as root:
        data = named_dataset(Path(root), name)
        try:
            written = fastseg.predict("mri", data, Path(root) / "out.tsv", export=GOLDEN)
            assert all(path.is_file() for path in written)
            page = Page(fastseg.show("mri", data.parent, out=Path(root) / "page.html"))
            assert page.tags == tags_of_a_plain_page()
            assert "".join(short(name).split()) in page.text
        except FastsegError as error:
            assert "\n" not in str(error).strip()
            in_tables = name == name.strip() and name.isprintable() and '"' not in name
            assert not in_tables, (name, error)  # what a line of a table can hold works
        assert (data / f"{name}.png").is_file()


@given(st.text(max_size=40))
def test_varied_of_any_text(text):
    import typer

    try:
        name, values = varied(text)
        assert name and values
    except typer.BadParameter as error:
        assert str(error)

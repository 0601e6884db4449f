"""Stores: folders of this machine and of fsspec, listed, read, written atomically; their errors."""

import os
import zipfile

import pytest
from conftest import refuses

from fastseg.utils.storage import LocalStore, split_address, store_of


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return store_of(str(tmp_path / "store"))
    return store_of(f"memory://{tmp_path.name}/store")


def test_files_are_written_listed_read_and_deleted(store):
    for name in ("b.txt", "a.txt", "folder/c.txt"):
        store.write(name, name.encode())
    assert [entry.name for entry in store.entries()] == ["a.txt", "b.txt"]
    assert [entry.name for entry in store.entries(deep=True)] == ["a.txt", "b.txt", "folder/c.txt"]
    assert [entry.size for entry in store.entries()] == [5, 5]
    assert store.read("folder/c.txt") == b"folder/c.txt" and store.read_if_there("d") is None
    before = store.entry("a.txt")
    assert before == store.entry("a.txt") and before.stamp
    store.write("a.txt", b"other")
    assert store.entry("a.txt").stamp != before.stamp
    store.delete("a.txt")
    store.delete("a.txt")  # is not an error
    assert store.entry("a.txt") is None


def test_a_file_is_created_only_if_there_is_none(store):
    assert store.create("lock", b"1") and not store.create("lock", b"2")
    assert store.read("lock") == b"1"


def test_addresses_lead_back_to_their_files(store):
    store.write("folder/c.txt", b"c")
    where, name = split_address(store.address("folder/c.txt"))
    assert where.read(name) == b"c"


def test_missing_folders_and_files(store, tmp_path):
    with refuses("no-such-path", str(store.place)):
        list(store.entries())
    store.write("x", b"")
    with refuses("unreadable-image" if isinstance(store, LocalStore) else "no-such-path", "y"):
        store.read("y")


def test_links_to_a_folder_around_themselves_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "a" / "broken")
    assert [e.name for e in store_of(str(tmp_path)).entries(deep=True)] == ["a/broken", "a/x.txt"]


def test_members_of_an_archive_are_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/b.txt", "b")
        archive.writestr("c.txt", "c")
    store = store_of(f"zip://::{tmp_path / 'x.zip'}")
    assert [entry.name for entry in store.entries(deep=True)] == ["a/b.txt", "c.txt"]
    where, name = split_address(store.address("a/b.txt"))
    assert where.read(name) == b"b"


def test_storage_that_needs_a_missing_package(monkeypatch):
    def missing(*_):
        raise ImportError("no gcsfs")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with refuses("no-storage", "gs://", "fastseg[gcs]"):
        store_of("gs://bucket/missing-package").entry("x")


def test_an_unknown_protocol():
    with refuses("no-storage", "nowhere://x/y"):
        store_of("nowhere://x/y").entry("z")

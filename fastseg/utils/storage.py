"""Folders by address: on this machine, or anywhere that fsspec reaches (s3://, gs://, zip://, ...).

An address is a path or a URL. `store_of` returns the `Store` of a folder; names in it have slashes.
Object stores write atomically; other file systems get a temporary name, then a rename.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile, ZipFile
from zlib import error as DamagedStream

from ..errors import DataError, brief
from .io import atomic_file

ARCHIVE = ".zip"
PAGE = 1000  # objects that S3 lists at a time, its own limit
# File systems on which a new object appears complete, or not at all.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
REFUSED = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "TokenRetrieval")
UNREACHABLE = (
    "EndpointConnection",
    "ConnectError",
    "ConnectTimeout",
    "ClientConnector",
    "ConnectionClosed",
)

# What a damaged archive or member of one raises; a missing member: KeyError; a password:
# RuntimeError.
DAMAGED = (BadZipFile, DamagedStream, EOFError, KeyError, OSError, RuntimeError)


class Entry(NamedTuple):
    """A file in a store."""

    name: str
    size: int  # bytes
    stamp: str  # changes with the content: ETag, or modification time


def is_url(place: object) -> bool:
    """Return whether an address is a URL, and not a path."""
    return "://" in str(place)


class Store(ABC):
    """A folder and the files below it. Pickles as its address."""

    def __init__(self, place: str):
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return store_of, (self.place,)

    @abstractmethod
    def entries(self, deep: bool = False) -> Iterator[Entry]:
        """Yield the files of the folder, in a stable order, also those of subfolders if `deep`.

        Raises `DataError` if the folder does not exist.
        """

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """Return a file's size and stamp; None if there is no such file."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading. Raises `DataError` if it cannot be opened."""

    @abstractmethod
    def put(self, file: Path, name: str) -> None:
        """Write a copy of a local file atomically. Raises `DataError` if it cannot be written."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically. Raises `DataError` if it cannot be written."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a file if there is none of this name; return whether it was written."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""

    @abstractmethod
    def address(self, name: str) -> str:
        """Return the address of a file, as `split_address` takes it."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises `DataError` if it cannot be read."""
        with self.open(name) as file:
            return file.read()

    def read_if_there(self, name: str) -> bytes | None:
        """Return a file's bytes, or None if there is no such file."""
        return self.read(name) if self.entry(name) else None


class LocalStore(Store):
    """A folder of this machine."""

    def __init__(self, place: str):
        super().__init__(place)
        self.folder = Path(place)

    def entries(self, deep: bool = False) -> Iterator[Entry]:
        try:
            yield from self._below(self.place, "", deep, ())
        except OSError as error:
            raise DataError(
                f"{self.place}: no such folder, or it cannot be read ({error.strerror}); check it",
                "no-such-path",
            ) from None

    def _below(
        self, folder: str, prefix: str, deep: bool, within: tuple[str, ...]
    ) -> Iterator[Entry]:
        real = os.path.realpath(folder)
        if real in within:  # a link to a folder around itself
            return
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            path = f"{folder}/{name}"
            try:
                facts = os.stat(path)
            except OSError:  # a broken link: whoever reads it says so
                yield Entry(prefix + name, 0, "")
                continue
            if not os.path.isdir(path):
                yield Entry(prefix + name, facts.st_size, str(facts.st_mtime_ns))
            elif deep and not name.startswith("."):
                yield from self._below(path, f"{prefix}{name}/", deep, (*within, real))

    def entry(self, name: str) -> Entry | None:
        try:
            facts = (self.folder / name).stat()
        except (OSError, ValueError):
            return None
        return Entry(name, facts.st_size, str(facts.st_mtime_ns))

    def open(self, name: str) -> IO[bytes]:
        path = self.folder / name
        try:
            return path.open("rb")
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror})", "unreadable-image"
            ) from None

    def put(self, file: Path, name: str) -> None:
        with atomic_file(self.folder / name) as temporary:
            shutil.copyfile(file, temporary)

    def write(self, name: str, data: bytes) -> None:
        with atomic_file(self.folder / name) as temporary:
            temporary.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        except OSError as error:
            raise DataError(
                f"{self.place}: cannot be written ({error.strerror}); choose another --out, or "
                "correct its permissions",
                "not-writable",
            ) from None
        return True

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def address(self, name: str) -> str:
        return str(self.folder / name)


class RemoteStore(Store):
    """A folder that fsspec reaches by a URL, which can be chained: zip://::s3://bucket/photos.zip.

    Access keys, regions and endpoints come from the usual environment variables and files of each
    provider, and from fsspec's configuration.
    """

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        protocol = self.place.partition("://")[0]
        try:
            with self._explained():
                files, path = url_to_fs(self.place)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            remedy = f"pip install 'fastseg[{extra}]'" if extra else f"install it ({error})"
            raise DataError(
                f"{self.place}: {protocol}:// needs a package that is not installed: {remedy}",
                "no-storage",
            ) from None
        except ValueError as error:
            raise DataError(f"{self.place}: {brief(error)}", "no-storage") from None
        return files, path.rstrip("/")

    @property
    def _files(self) -> Any:
        return self._opened[0]

    def _path(self, name: str) -> str:
        return f"{self._opened[1]}/{name}".lstrip("/") if self._opened[1] else name

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        """Turn the errors of providers into one line."""
        is_own = name.startswith(".")  # a file that users do not know of
        where = self.place if is_own or not name else f"{self.place}/{name}"
        try:
            yield
        except (DataError, ImportError, ValueError):
            raise
        except FileNotFoundError:
            raise DataError(
                f"{where}: no such bucket, folder or file; check the address", "no-such-path"
            ) from None
        except PermissionError as error:
            raise DataError(
                f"{where}: access is refused ({brief(error)}); check the credentials, and whether "
                "they may read or write there",
                "access-refused",
            ) from None
        except Exception as error:  # each provider's client has exceptions of its own
            kind = type(error).__name__
            if any(part in kind for part in REFUSED):
                raise DataError(
                    f"{where}: there are no credentials ({brief(error)}); set them as the "
                    "provider's own tools expect them, such as AWS_ACCESS_KEY_ID",
                    "access-refused",
                ) from None
            if any(part in kind for part in UNREACHABLE):
                raise DataError(
                    f"{where}: the server cannot be reached ({brief(error)}); check network and "
                    "endpoint",
                    "no-connection",
                ) from None
            raise DataError(f"{where}: {kind}: {brief(error)}", "storage") from error

    def entries(self, deep: bool = False) -> Iterator[Entry]:
        pages = self._s3_entries if "s3" in self._protocols else self._entries_below
        with self._explained():
            count = 0
            for count, entry in enumerate(pages("", deep), 1):  # noqa: B007
                yield entry
            if not count and not self._files.exists(self._opened[1] or "/"):
                raise FileNotFoundError(self.place)

    @property
    def _protocols(self) -> set[str]:
        named = self._files.protocol
        return {named} if isinstance(named, str) else {*named}

    def _s3_entries(self, _: str, deep: bool) -> Iterator[Entry]:
        """Yield the objects page by page; fsspec would keep a kilobyte for each object."""
        bucket, _, prefix = self._opened[1].partition("/")
        prefix = f"{prefix}/" if prefix else ""
        options = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE}
        options |= {} if deep else {"Delimiter": "/"}
        while True:
            page = self._files.call_s3("list_objects_v2", **options)
            for found in page.get("Contents", ()):
                if name := found["Key"][len(prefix) :]:
                    yield Entry(name, found["Size"], found["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _entries_below(self, prefix: str, deep: bool) -> Iterator[Entry]:
        folder = self._path(prefix).rstrip("/")
        self._files.invalidate_cache()  # other programs write there, too
        found = self._files.ls(folder, detail=True)
        self._files.invalidate_cache()  # listings of a million names would stay in memory
        for facts in sorted(found, key=lambda one: str(one["name"])):
            name = prefix + PurePosixPath(facts["name"].rstrip("/")).name
            if facts["type"] != "directory":
                yield Entry(name, facts["size"] or 0, _stamp(facts))
            elif deep and facts["name"].rstrip("/") != folder:
                yield from self._entries_below(f"{name}/", deep)

    def entry(self, name: str) -> Entry | None:
        with self._explained(name):
            try:
                facts = self._files.info(self._path(name))
            except FileNotFoundError:
                return None
        return None if facts["type"] == "directory" else Entry(name, facts["size"], _stamp(facts))

    def open(self, name: str) -> IO[bytes]:
        with self._explained(name):
            return self._files.open(self._path(name), "rb")

    def read(self, name: str) -> bytes:
        with self._explained(name):
            return self._files.cat_file(self._path(name))

    def put(self, file: Path, name: str) -> None:
        self._write_by(name, lambda path: self._files.put_file(str(file), path))

    def write(self, name: str, data: bytes) -> None:
        self._write_by(name, lambda path: self._files.pipe_file(path, data))

    def _write_by(self, name: str, write: Callable[[str], object]) -> None:
        """Call `write` with the path of a file, or with a temporary one that is renamed then."""
        path = self._path(name)
        with self._explained(name):
            if self._protocols & OBJECT_STORES:
                write(path)
                return
            self._files.makedirs(path.rpartition("/")[0] or "/", exist_ok=True)
            temporary = f"{path.rpartition('/')[0]}/.{secrets.token_hex(8)}"
            try:
                write(temporary)
                self._files.mv(temporary, path)
            finally:
                with suppress(FileNotFoundError):
                    self._files.rm_file(temporary)

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with self._explained(name):
            try:
                self._files.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError):  # this provider cannot do it in one step
                if self._files.exists(path):
                    return False
                self._files.pipe_file(path, data)
        return True

    def delete(self, name: str) -> None:
        with self._explained(name), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def address(self, name: str) -> str:
        first, link, rest = self.place.partition("::")
        return f"{first.rstrip('/') if not first.endswith('://') else first}" + (
            f"{'' if first.endswith('://') else '/'}{name}{link}{rest}"
        )


class ZipStore(Store):
    """The members of a zip archive, at any address: zip://::photos.zip. It is only read."""

    @cached_property
    def _archive(self) -> ZipFile:
        address = self.place.partition("::")[2]
        store, name = split_address(address)
        if store.entry(name) is None:
            raise DataError(f"{address}: no such file; check the address", "no-such-path")
        try:
            # A path: the archive then closes its file itself.
            return ZipFile(address if isinstance(store, LocalStore) else store.open(name))
        except (BadZipFile, OSError, EOFError) as error:
            raise DataError(
                f"{address}: cannot be read as a zip archive ({brief(error)}); write it again",
                "unreadable-archive",
            ) from None

    def entries(self, deep: bool = False) -> Iterator[Entry]:
        for member in sorted(self._archive.infolist(), key=lambda one: one.filename):
            if not member.is_dir() and (deep or "/" not in member.filename):
                yield Entry(member.filename, member.file_size, f"{member.CRC:08x}")

    def entry(self, name: str) -> Entry | None:
        try:
            member = self._archive.getinfo(name)
        except KeyError:
            return None
        return Entry(name, member.file_size, f"{member.CRC:08x}")

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except DAMAGED as error:
            raise DataError(
                f"{self.address(name)}: cannot be read ({brief(error)})", "unreadable-image"
            ) from None

    def open(self, name: str) -> IO[bytes]:
        with self._readable(name):
            return self._archive.open(name)

    def read(self, name: str) -> bytes:
        with self._readable(name):
            return super().read(name)

    def put(self, file: Path, name: str) -> None:
        raise self._read_only()

    def write(self, name: str, data: bytes) -> None:
        raise self._read_only()

    def create(self, name: str, data: bytes) -> bool:
        raise self._read_only()

    def delete(self, name: str) -> None:
        raise self._read_only()

    def _read_only(self) -> DataError:
        return DataError(f"{self.place}: archives are read, not written", "archive-out")

    def address(self, name: str) -> str:
        return f"zip://{name}{self.place.removeprefix('zip://')}"


def _stamp(facts: dict[str, Any]) -> str:
    """Return what changes with a file's content, from fsspec's facts about it."""
    names = ("ETag", "etag", "content_md5", "md5Hash", "mtime", "LastModified", "last_modified")
    for name in (*names, "updated", "created", "CRC", "date_time", "blob_id"):
        if facts.get(name):
            return str(facts[name]).strip('"')
    return ""


@lru_cache(maxsize=64)
def store_of(place: str) -> Store:
    """Return the store of a folder's address. Nothing is read yet."""
    if place.startswith("zip://::"):
        return ZipStore(place)
    return RemoteStore(place) if is_url(place) else LocalStore(place)


def without_file_scheme(place: str) -> str:
    """Return a path in place of a file:// address; other addresses as they are."""
    return re.sub("^file://(localhost(?=/))?", "", place)


def split_address(address: str) -> tuple[Store, str]:
    """Return the store of the folder that a file is in, and the file's name in it."""
    if not is_url(address):
        path = Path(address)
        return store_of(str(path.parent)), path.name
    first, link, rest = address.partition("::")
    protocol, _, path_part = first.partition("://")
    folder, _, name = path_part.rpartition("/")
    if link:  # a member of an archive: one store for the archive, not one a folder in it
        return store_of(f"{protocol}://{link}{rest}"), path_part
    return store_of(f"{protocol}://{folder}"), name

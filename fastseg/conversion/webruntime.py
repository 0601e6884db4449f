"""onnxruntime-web, which runs ONNX in a browser: one pinned release, from npm or from the user.

It is not part of fastseg, since its WebAssembly has 14 MB. Licence: MIT.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from ..errors import ModelError, brief
from ..utils.io import atomic_file
from ..utils.user_cache import make_cache_folder

NAME, VERSION = "onnxruntime-web", "1.30.0"
# Of the release's archive, as npm's own `dist.integrity` has it
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The files that are used, with their SHA-256: a module with its loader, and the code for CPUs with
# SIMD. Its threads need headers that a page from a file does not have: it runs without them.
SCRIPT, WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
ARCHIVE = f"{NAME}-{VERSION}.tgz"
SECONDS = 600  # that a download of 33 MB may take


@dataclass(frozen=True)
class WebRuntime:
    """The two files of onnxruntime-web that a page needs."""

    script: str  # an ES module
    wasm: bytes


def web_runtime(given: Path | str | None = None) -> WebRuntime:
    """Return onnxruntime-web: of `given`, its archive or a folder of it, or else by npm.

    What npm downloads is kept in the user's cache folder. Every file is compared with its pinned
    digest. Raises `ModelError` with code "no-web-runtime" if there is none, and with
    "wrong-web-runtime" for another release or a damaged file.
    """
    if given is None:
        return _from_archive(_cached())
    path = Path(given)
    if path.is_file():
        return _from_archive(path)
    roots = [path, path / "package", path / "node_modules" / NAME, path.parent]
    root = next((root for root in roots if (root / WASM).is_file()), None)
    if root is None:
        raise ModelError(
            f"{path}: is neither {ARCHIVE} nor a folder with {WASM}; make one with: "
            f"npm pack {NAME}@{VERSION}",
            "no-such-web-runtime",
        )
    return _checked({name: (root / name).read_bytes() for name in SHA256}, path)


def _cached() -> Path:
    """Return the archive in the user's cache folder; npm downloads it on first use."""
    archive = user_cache_path("fastseg") / ARCHIVE
    if archive.is_file() and _sha512(archive) == SHA512:
        return archive
    npm = shutil.which("npm")
    remedy = (
        f"on a machine with npm and a network, run npm pack {NAME}@{VERSION}, and pass the file: "
        f"--onnxruntime-web {ARCHIVE}"
    )
    if npm is None:
        raise ModelError(
            f"--to html needs {NAME} {VERSION}, and npm, which downloads it, is not installed; "
            f"{remedy}",
            "no-npm",
        )
    make_cache_folder()
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{NAME}@{VERSION}", "--ignore-scripts", "--silent"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=SECONDS)
            reason = done.stderr.decode(errors="replace") or f"exit code {done.returncode}"
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
        found = Path(folder) / ARCHIVE
        if not found.is_file():
            raise ModelError(
                f"npm cannot download {NAME} {VERSION} ({brief(reason)}); {remedy}",
                "no-web-runtime",
            )
        _require_whole(found)
        with atomic_file(archive) as temporary:
            shutil.copyfile(found, temporary)
    return archive


def _from_archive(archive: Path) -> WebRuntime:
    _require_whole(archive)
    with tarfile.open(archive) as opened:  # its digest is right: so are its names and sizes
        members = {name: opened.extractfile(f"package/{name}") for name in SHA256}
        return _checked({name: file.read() for name, file in members.items() if file}, archive)


def _require_whole(archive: Path) -> None:
    if _sha512(archive) != SHA512:
        raise _wrong(archive)


def _checked(files: dict[str, bytes], source: Path) -> WebRuntime:
    if any(hashlib.sha256(files.get(name, b"")).hexdigest() != SHA256[name] for name in SHA256):
        raise _wrong(source)
    return WebRuntime(files[SCRIPT].decode(), files[WASM])


def _wrong(source: Path) -> ModelError:
    return ModelError(
        f"{source}: is not {NAME} {VERSION}, or it is damaged: its digest is another one; "
        f"make it again with: npm pack {NAME}@{VERSION}",
        "wrong-web-runtime",
    )


def _sha512(path: Path) -> str:
    """Return a file's SHA-512 as npm writes it, in base64."""
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()

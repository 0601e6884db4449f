"""One look at each image by an export: expected error, predicted classes, the backbone's features.

Images are streamed. What is kept of each is a short row, in the user's cache under the image's
content and the export's identity: the next look at the same image costs a hash of its file.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.slices import real_file
from ..errors import DataError
from ..metrics.calibration import softmax
from ..utils.progress import track
from ..utils.threads import results_in_order
from ..utils.user_cache import cache_path, make_cache_folder

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

VERSION = 1  # of the rows; raise when they are computed in another way
# Features are projected to so many numbers. By Johnson and Lindenstrauss, distances change by some
# 10 %, and a million images take 512 MB.
WIDTH = 128
READ = 1 << 20  # bytes that are hashed at a time
MAX_AGE_SECONDS = 90 * 86400  # rows that no look has used for so long are deleted
AHEAD = 2  # batches that are read ahead


@dataclass
class Looks:
    """What an export sees in images; rows are in the order of `files`."""

    files: list[Path]
    errors: np.ndarray  # float32 (N,): the expected error, see `metrics.risk.expected_error`
    shares: np.ndarray  # float32 (N, C): predicted share of the pixels, or the probability
    features: np.ndarray  # float32 (N, K), of length 1
    failed: dict[Path, DataError]  # files that cannot be read; they are not in `files`


def look(predictor: Predictor, files: Sequence[Path], bs: int = 8) -> Looks:
    """Look at image files with an export's `predictor`, and return what it sees.

    Files that cannot be read are in `failed`. Rows of earlier looks at the same content by the same
    export come from the user's cache.
    """
    width = 1 + len(predictor.task.classes) + WIDTH
    rows = np.zeros((len(files), width), dtype=np.float32)
    failed: dict[Path, DataError] = {}
    found = _rows(predictor, files, width, bs)
    for i, row in enumerate(track(found, "looking at the images", len(files))):
        if isinstance(row, DataError):
            failed[files[i]] = row
        else:
            rows[i] = row
    kept = [i for i, file in enumerate(files) if file not in failed]
    rows = rows[kept]
    classes = 1 + len(predictor.task.classes)
    return Looks(
        [files[i] for i in kept], rows[:, 0], rows[:, 1:classes], rows[:, classes:], failed
    )


def _rows(
    predictor: Predictor, files: Sequence[Path], width: int, bs: int
) -> Iterator[np.ndarray | DataError]:
    """Yield the row of each file, or why it cannot be read, in order."""
    left = iter(files)
    batches = iter(lambda: list(islice(left, bs)), [])
    with ThreadPoolExecutor(AHEAD) as pool, closing(_Cache(predictor, width)) as cache:
        keyed = (pool.submit(_keys, predictor, batch) for batch in batches)
        for batch, keys in results_in_order(keyed, AHEAD):
            known = cache.get(keys)
            new = [i for i, key in enumerate(keys) if key not in known]
            results = dict(zip(new, _look_at(predictor, [batch[i] for i in new], pool)))
            made = {
                keys[i]: row
                for i, row in results.items()
                if keys[i] and not isinstance(row, DataError)
            }
            cache.put(made)
            yield from (results[i] if i in results else known[key] for i, key in enumerate(keys))


def _look_at(
    predictor: Predictor, files: Sequence[Path], pool: ThreadPoolExecutor
) -> Iterator[np.ndarray | DataError]:
    """Yield the rows of some files, which are one batch."""
    from ..inference.prediction import PREDICTIONS

    task = predictor.task
    reads = list(pool.map(lambda file: _read(predictor, file), files))
    results: list[np.ndarray | DataError | None] = [
        read if isinstance(read, DataError) else None for read in reads
    ]
    good = [(i, *read) for i, read in enumerate(reads) if not isinstance(read, DataError)]
    if good:
        batch = np.stack([pixels for _, pixels, _ in good])
        features = _projected(predictor.features(batch))
        for (i, _, own), logits, feature in zip(good, predictor.logits(batch), features):
            seen = PREDICTIONS[task.kind](task, files[i], logits, own)
            shares = softmax(seen.logits)
            if task.has_masks:  # at the model's size: shares need no more
                codes = shares.argmax(0)
                shares = np.bincount(codes.reshape(-1), minlength=len(task.classes)) / codes.size
            results[i] = np.concatenate([[seen.expected_error], shares, feature]).astype(np.float32)
    yield from (result for result in results if result is not None)


def _read(predictor: Predictor, file: Path) -> tuple[np.ndarray, tuple[int, int]] | DataError:
    try:
        return predictor.task.image_near(file, predictor.size)
    except DataError as error:
        return error


def _projected(features: np.ndarray) -> np.ndarray:
    """Return features (B, D) as directions, float32 (B, WIDTH): their length is mostly contrast.

    A fixed Gaussian matrix projects them, see Dasgupta and Gupta, Random Structures & Algorithms
    22 (2003).
    """
    wide = features.shape[1]
    if wide > WIDTH:
        draw = np.random.default_rng(wide).standard_normal((wide, WIDTH), dtype=np.float32)
        features = features @ draw / np.float32(WIDTH**0.5)
    else:
        features = np.pad(features, ((0, 0), (0, WIDTH - wide)))
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _keys(predictor: Predictor, batch: list[Path]) -> tuple[list[Path], list[bytes]]:
    return batch, [_content_key(predictor, file) for file in batch]


def _content_key(predictor: Predictor, file: Path) -> bytes:
    """Return the digest of an image's content, of all its files; empty if one cannot be read."""
    from ..data.channels import files_of

    digest = hashlib.sha256()
    try:
        for part in files_of(file, predictor.task.reading):
            real = real_file(part)
            digest.update(part.name.encode(errors="surrogateescape") if real != part else b"")
            with real.open("rb") as content:
                while block := content.read(READ):
                    digest.update(block)
    except (OSError, DataError):
        return b""
    return digest.digest()


class _Cache:
    """Rows by key in a file of the user's cache, for one export."""

    def __init__(self, predictor: Predictor, width: int):
        make_cache_folder()
        card = predictor.card
        # Runtime and precision change the last digits only, and not an order by them.
        identity = [
            VERSION,
            card.sha256,
            predictor.task.definition(),
            predictor.tta,
            card.temperature,
        ]
        self.path, self.width = cache_path("looks", *identity), width
        self.database = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        with self.database:
            self.database.execute(
                "create table if not exists looks (key blob primary key, row blob, used integer)"
            )
            old = int(time.time()) - MAX_AGE_SECONDS
            self.database.execute("delete from looks where used < ?", (old,))

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the rows of the keys that have one."""
        known = [key for key in dict.fromkeys(keys) if key]
        marks = ",".join("?" * len(known))
        with self.database:
            self.database.execute(
                f"update looks set used = ? where key in ({marks})", (int(time.time()), *known)
            )
            found = self.database.execute(
                f"select key, row from looks where key in ({marks})", known
            ).fetchall()
        rows = {key: np.frombuffer(row, dtype=np.float32) for key, row in found}
        return {key: row for key, row in rows.items() if len(row) == self.width}

    def put(self, rows: dict[bytes, np.ndarray]) -> None:
        """Store rows, in one transaction."""
        now = int(time.time())
        with self.database:
            self.database.executemany(
                "insert or replace into looks values (?, ?, ?)",
                [(key, row.tobytes(), now) for key, row in rows.items()],
            )

    def close(self) -> None:
        self.database.close()

"""Video files of masks, without loss, and of overlays; and segments joined to one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..utils.io import atomic_file


@dataclass(frozen=True)
class Format:
    """A kind of video file that is written."""

    suffix: str
    container: str  # FFmpeg's name
    codec: str
    layouts: dict[int, str]  # number of an array's dimensions -> pixel format
    options: dict[str, str] = field(default_factory=dict)
    multiple: int = 1  # of which width and height are multiples


# FFV1 keeps each value; Matroska rounds time stamps to ms, frames.csv has them exactly.
MASKS = Format(
    ".mkv", "matroska", "ffv1", {2: "gray", 3: "bgr0"}, {"level": "3", "slicecrc": "1", "g": "1"}
)
# Without B-frames, segments can be joined without encoding them again.
OVERLAY = Format(
    ".mp4",
    "mp4",
    "libx264",
    {3: "yuv420p"},
    {"crf": "20", "preset": "veryfast", "bf": "0"},
    multiple=2,
)
ARRAYS = {2: "gray", 3: "rgb24"}


class Writer:
    """A video being written; `write` takes frames in order."""

    def __init__(self, container: Any, kind: Format, time_base: Fraction):
        self._container, self._kind, self._time_base = container, kind, time_base
        self._stream: Any = None

    def write(self, pixels: np.ndarray, ticks: int) -> None:
        """Encode a frame, uint8 (H, W) or (H, W, 3), to be shown at `ticks` of the time base."""
        import av

        many = self._kind.multiple
        edges = [(0, -side % many) for side in pixels.shape[:2]]
        if any(after for _, after in edges):  # x264 halves the sides of colours
            pixels = np.pad(pixels, [*edges, (0, 0)][: pixels.ndim], mode="edge")
        if self._stream is None:
            self._stream = self._started(pixels)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=ARRAYS[pixels.ndim])
        frame.pts, frame.time_base = ticks, self._time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())

    def _started(self, pixels: np.ndarray) -> Any:
        stream = self._container.add_stream(self._kind.codec, options=dict(self._kind.options))
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = self._kind.layouts[pixels.ndim]
        stream.time_base = stream.codec_context.time_base = self._time_base
        return stream


@contextmanager
def written(path: Path, kind: Format, time_base: Fraction) -> Iterator[Writer]:
    """Yield a `Writer` of a file that appears when the block has ended without an error.

    Raises `DataError` if it cannot be written.
    """
    import av

    with (
        atomic_file(path) as temporary,
        av.open(os.path.abspath(temporary), "w", format=kind.container) as container,
    ):
        writer = Writer(container, kind, time_base)
        yield writer
        writer.finish()


def join(parts: Sequence[Path], path: Path, kind: Format) -> Path:
    """Write the segments of a video as one file, without encoding them again."""
    import av

    with (
        atomic_file(path) as temporary,
        av.open(os.path.abspath(temporary), "w", format=kind.container) as container,
    ):
        stream = None
        for part in parts:
            with av.open(os.path.abspath(part)) as segment:
                source = segment.streams.video[0]
                if stream is None:
                    stream = container.add_stream_from_template(source)
                    stream.time_base = source.time_base
                for packet in segment.demux(source):
                    if packet.dts is not None:  # the last one is empty
                        packet.stream = stream
                        container.mux(packet)
    return path


def require_encoder(kind: Format) -> None:
    """Raise `DataError` if PyAV cannot write a kind of file."""
    import av

    if kind.codec not in av.codecs_available:
        raise DataError(
            f"this PyAV is built without {kind.codec}, which overlays are written with; install "
            "PyAV's own wheel, or leave out --overlay",
            "no-encoder",
        )

"""Frames of a video, one after the other: upright, with their own time stamps."""

from __future__ import annotations

import logging
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import DataError, brief
from ..utils.threads import cores
from .sources import CAMERA, is_camera, require_reader

log = logging.getLogger(__name__)

RATE = 25  # frames per second of what has no time stamps, such as numbered images; a convention
# Seconds that may be missing at the end before a video counts as truncated: the length in a header
# is rounded, and may be that of the sound.
MISSING = 1.0
# How FFmpeg names the cameras of a system: format and address
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("vfwcap", "{}"),
}


@dataclass(frozen=True)
class Frame:
    """One frame: `ticks` of the video's time base after the first one, and its pixels, uint8 (H, W,
    3).
    """

    index: int
    ticks: int
    pixels: np.ndarray


class Video(ABC):
    """An open video. Raises `DataError` for what is no video, or cannot be decoded here.

    `time_base` is the length of a tick in seconds, `count` the number of frames, as far as the
    header tells it. Use it as a context manager.
    """

    time_base: Fraction
    count: int | None

    def __init__(self, source: str):
        self.source = source
        self.error: DataError | None = None  # why the frames ended early

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the use of files."""

    def seconds(self, ticks: int) -> float:
        """Return ticks of the time base in seconds."""
        return float(ticks * self.time_base)

    def frames(self, start: int = 0, limit: float | None = None) -> Iterator[Frame]:
        """Yield the frames from number `start` on, up to `limit` seconds after the first one.

        Where a video is damaged, or its frames change their size, they end there, and `error` says
        why: what comes before can be used.
        """
        shape: tuple[int, int] | None = None
        for index, (ticks, size, pixels) in enumerate(self._decoded()):
            if limit is not None and self.seconds(ticks) >= limit:
                return
            if shape is not None and size != shape:
                self.error = DataError(
                    f"{self.source}: frame {index} has {size[1]}x{size[0]} px, and those before it "
                    f"{shape[1]}x{shape[0]}; cut the video there, and predict the parts",
                    "frame-size",
                )
                return
            shape = size
            if index >= start:
                yield Frame(index, ticks, pixels())

    @abstractmethod
    def _decoded(self) -> Iterator[tuple[int, tuple[int, int], Callable[[], np.ndarray]]]:
        """Yield of each frame its ticks after the first one, which increase, its (height, width),
        and a function that returns its pixels. At damage, set `error` and end.
        """


class Recording(Video):
    """A video file or a camera, decoded by FFmpeg."""

    def __init__(self, source: str):
        super().__init__(source)
        require_reader(source)
        self._lock, self._is_closed = Lock(), False
        self._container = _opened(source)
        self._stream = self._decodable()
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = cores()
        self.time_base = self._stream.time_base
        self.count = self._counted()

    def close(self) -> None:
        with self._lock:  # another thread may be decoding, which must not lose its container
            self._is_closed = True
            self._container.close()

    def _decoded(self) -> Iterator[tuple[int, tuple[int, int], Callable[[], np.ndarray]]]:
        import av

        first = last = None
        count, duration, step = 0, 0, self._step()
        has_times = self._has_times()
        packets = self._container.demux(self._stream)
        try:
            while (frames := self._next(packets)) is not None:
                for frame in frames:
                    ticks = frame.pts if has_times else None
                    if ticks is None:
                        ticks = 0 if last is None else last + step
                    if last is not None and ticks <= last:
                        ticks = last + 1
                    last = ticks
                    first = ticks if first is None else first
                    count, duration = count + 1, frame.duration or 0
                    yield ticks - first, (frame.height, frame.width), partial(_upright, frame)
        except (av.FFmpegError, OSError) as error:
            self.error = self._undecodable(getattr(error, "strerror", "") or str(error))
            return
        if first is None or last is None:
            self.error = self._undecodable("it has no frames")
        elif not 0 < self._stream.frames <= count:
            self._check_end(last - first + max(step, duration))

    def _next(self, packets: Iterator[Any]) -> list[Any] | None:
        """Return the frames of the next packet, or None at the end."""
        with self._lock:
            packet = None if self._is_closed else next(packets, None)
            return None if packet is None else packet.decode()

    def _step(self) -> int:
        """Return the ticks between two frames by the frame rate."""
        rate = self._stream.average_rate or self._stream.guessed_rate or RATE
        return max(1, round(1 / (rate * self.time_base)))

    def _has_times(self) -> bool:
        """Return whether frames have time stamps: AVI has the order of its packets only, which is
        not that of the frames where there are B-frames.
        """
        has_b_frames = self._stream.codec_context.has_b_frames
        return not (self._container.format.name == "avi" and has_b_frames)

    def _check_end(self, ticks: int) -> None:
        """Note that a video is truncated, if its header promises more than these ticks."""
        length, found = self._length(), self.seconds(ticks)
        if length is not None and length - found > max(MISSING, 3 * self.seconds(self._step())):
            self.error = DataError(
                f"{self.source}: ends after {found:.1f} of {length:.1f} s: it is truncated; copy "
                "or record it again",
                "truncated-video",
            )

    def _length(self) -> float | None:
        """Return the seconds from the first frame to the end, by the header."""
        stream = self._stream
        if stream.duration is not None:
            return self.seconds(stream.duration)
        found = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
        if found is None:
            return None
        end = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
        return end - self.seconds(stream.start_time or 0)

    def _counted(self) -> int | None:
        if self._stream.frames:
            return int(self._stream.frames)
        length, rate = self._length(), self._stream.average_rate
        return round(length * rate) if length and rate else None

    def _decodable(self) -> Any:
        """Return the stream of the container to decode. Raises `DataError`."""
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & type(stream.disposition).attached_pic  # a cover
        ]
        if not streams:
            self._container.close()
            raise DataError(
                f"{self.source}: has no pictures, only sound or text; give a video", "no-pictures"
            )
        if _is_encrypted(self.source):  # now: some of it may decode, to pictures of noise
            self._container.close()
            raise DataError(
                f"{self.source}: is encrypted; give a copy without copy protection",
                "encrypted-video",
            )
        stream = streams[0]
        if stream.codec_context is None:
            self._container.close()
            raise self._undecodable("its codec is not built into PyAV")
        return stream

    def _undecodable(self, reason: str) -> DataError:
        return DataError(
            f"{self.source}: cannot be decoded ({brief(reason)}); copy or record it again, or "
            "convert it to H.264",
            "damaged-video",
        )


def _opened(source: str) -> Any:
    """Return PyAV's container of a source. Raises `DataError`."""
    import av

    camera = CAMERA.fullmatch(source)
    if camera:
        return _opened_camera(source, camera[1])
    if not Path(source).is_file():
        raise DataError(f"{source}: no such video; check the path", "no-such-path")
    if not Path(source).stat().st_size:
        raise DataError(f"{source}: is empty; copy or record it again", "empty-video")
    try:
        # not as given: FFmpeg takes what is before a colon for a protocol
        return av.open(os.path.abspath(source))
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{source}: is no video, or damaged ({brief(error.strerror or error)}); copy or record "
            "it again",
            "unreadable-video",
        ) from None


def _opened_camera(source: str, number: str) -> Any:
    import av

    kind, address = CAMERAS.get(sys.platform, CAMERAS["linux"])
    try:
        return av.open(address.format(number), format=kind)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(
            f"{source}: cannot be opened ({brief(error)}); check that the camera is connected and "
            f"that PyAV is built with {kind} (pip install --no-binary av av)",
            "no-camera",
        ) from None


def _upright(frame: Any) -> np.ndarray:
    """Return a decoded frame as uint8 RGB (H, W, 3), turned as its rotation flag says."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def _is_encrypted(source: str) -> bool:
    """Return whether an MP4 file declares encrypted pictures: "encv" in its box "moov" (ISO/IEC
    14496-12).
    """
    if is_camera(source):
        return False
    with open(source, "rb") as file:
        end, place = os.fstat(file.fileno()).st_size, 0
        while place + 8 <= end:
            file.seek(place)
            head = file.read(16)
            size, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if place == 0 and kind != b"ftyp":
                return False
            if size == 1:  # the size follows, in 64 bits
                size = int.from_bytes(head[8:], "big")
            if kind == b"moov":
                return b"encv" in file.read(min(size or end, end - place))
            if size < 8:  # 0: the box goes to the end of the file
                return False
            place += size
    return False

"""Synthetic clips, written by PyAV: drawn eyes that move, of flat colours that a test can read."""

from fractions import Fraction

import av
import numpy as np

COLOURS = np.array([(200, 150, 130), (235, 235, 235), (60, 110, 200), (10, 10, 10)])
TICK = Fraction(1, 1000)
SIZE = (48, 64)


def eye(number, size=SIZE, noise=0.0):
    """Return frame `number` of a moving eye, uint8 (H, W, 3), and its codes, uint8 (H, W)."""
    y, x = np.mgrid[: size[0], : size[1]]
    centre = size[1] / 2 + 8 * np.sin(number / 6), size[0] / 2 + 3 * np.cos(number / 5)
    from_centre = np.hypot(x - centre[0], y - centre[1])
    lids = np.hypot((x - size[1] / 2) / (0.45 * size[1]), (y - size[0] / 2) / (0.4 * size[0])) < 1
    codes = np.zeros(size, dtype=np.uint8)
    codes[lids] = 1
    codes[lids & (from_centre < 12)] = 2
    codes[lids & (from_centre < 5 + 1.5 * np.sin(number / 9))] = 3
    grain = np.random.default_rng(number).normal(0, noise, (*size, 3)) if noise else 0
    return (COLOURS[codes] + grain).clip(0, 255).astype(np.uint8), codes


def colour_network(predictor, batch, threads=None):
    """Return logits, float32 (B, 4, h, w), by the distance of pixels to the colours above."""
    away = ((batch[:, None].astype(np.float32) - COLOURS[None, :, None, None, :]) ** 2).sum(-1)
    return (-away / 2000).astype(np.float32)


def times(count):
    """Return the ticks of frames at a rate that varies."""
    return np.cumsum([0, *(33 if i % 3 else 67 for i in range(count - 1))]).tolist()


def write(path, pictures, ticks=None, codec="libx264rgb", layout="rgb24", rotation=0, **options):
    """Write pictures, uint8 (H, W, 3), as a clip, by default without loss, at ticks of 1 ms."""
    pictures = list(pictures)
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, options={"qp": "0"} if "264" in codec else {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = layout
        stream.time_base = stream.codec_context.time_base = TICK
        if rotation:
            stream.set_display_rotation(rotation)
        for picture, tick in zip(pictures, ticks or times(len(pictures))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def clip(path, count=12, noise=0.0, **options):
    return write(path, (eye(i, noise=noise)[0] for i in range(count)), **options)


def read(path, layout="gray"):
    """Return the frames of a clip as arrays, and their times in seconds."""
    with av.open(str(path)) as container:
        found = [(f.to_ndarray(format=layout), float(f.time)) for f in container.decode(video=0)]
    return [pixels for pixels, _ in found], [time for _, time in found]

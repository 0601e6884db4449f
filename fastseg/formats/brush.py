"""Label Studio's run lengths of brush strokes: decoder and encoder, written for its format.

The values are those of an image of four channels (red, green, blue, opacity), row by row; a pixel
belongs to the stroke where it is not transparent. They are packed bit by bit, most significant
first:

- 32 bits: how many values there are; 5 bits: bits of a value, minus 1; four times 4 bits: bits
  of a run's length, minus 1, for the four kinds of runs;
- each run: 1 bit, whether one value is repeated; 2 bits: kind of the run; the length minus 1;
  then the repeated value, or each value.
"""

from __future__ import annotations

import numpy as np

from .documents import MAX_BITMAP, Bad, kind_of, listed

CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)  # as Label Studio writes them
HEADER_BITS = 32 + 5 + 4 * 4
REMEDY = "draw this region again"


def decode_brush(rle: object, size: tuple[int, int], place: str) -> np.ndarray:
    """Return the opacity of a brush stroke, uint8 (H, W), of an image of `size`.

    Raises `Bad`, before anything large is allocated, if it holds other than that many pixels.
    """
    height, width = size
    count = height * width * CHANNELS
    if height * width > MAX_BITMAP:
        raise Bad(place, f"a brush stroke of {width} x {height} px is too large", REMEDY)
    # every value in a run of its own, in the longest form
    if len(listed(rle, place)) > count * (3 + 16 + VALUE_BITS) // 8 + HEADER_BITS:
        raise Bad(place, f"holds more than an image of {width} x {height} px can need", REMEDY)
    return _opacity(_bytes(rle, place), count, place).reshape(height, width)


def _bytes(rle: object, place: str) -> bytes:
    values = listed(rle, place)
    for index, value in enumerate(values):
        # true and false are numbers to Python
        if type(value) is not int or not 0 <= value <= 255:
            raise Bad(
                f"{place}[{index}]",
                f"is {value if type(value) is int else kind_of(value)}, no byte"[:100],
                REMEDY,
            )
    return bytes(values)


class _Bits:
    """Reads whole numbers of some bits each."""

    def __init__(self, data: bytes, place: str):
        self.data, self.at, self.place = data, 0, place

    def read(self, count: int) -> int:
        """Return the next `count` bits as a number. Raises `Bad` at the end."""
        end = self.at + count
        last = (end + 7) // 8
        if last > len(self.data):
            raise Bad(self.place, "ends too early", REMEDY)
        number = int.from_bytes(self.data[self.at // 8 : last], "big") >> (last * 8 - end)
        self.at = end
        return number & ((1 << count) - 1)

    def values(self, count: int, bits: int) -> np.ndarray:
        """Return the next `count` numbers of `bits` bits, at most 8, as uint8 (count,)."""
        end = self.at + count * bits
        last = (end + 7) // 8
        if last > len(self.data):
            raise Bad(self.place, "ends too early", REMEDY)
        packed = np.frombuffer(self.data[self.at // 8 : last], np.uint8)
        skipped = self.at % 8
        unpacked = np.unpackbits(packed)[skipped : skipped + count * bits].reshape(count, bits)
        self.at = end
        return np.packbits(unpacked, axis=1)[:, 0] >> (8 - bits)


def _opacity(data: bytes, count: int, place: str) -> np.ndarray:
    """Return every fourth of `count` decoded values, uint8 (count / 4,). Raises `Bad`."""
    bits = _Bits(data, place)
    stated, value_bits = bits.read(32), bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    if stated != count:
        raise Bad(
            place,
            f"holds {stated} values, not {count}: four for each pixel of its image",
            "export the labels again; the sizes in the file must be those of the image",
        )
    if value_bits > VALUE_BITS:
        raise Bad(place, f"holds values of {value_bits} bits, not {VALUE_BITS}", REMEDY)
    found = np.zeros(count // CHANNELS, np.uint8)
    at = 0
    while at < count:
        is_repeated = bits.read(1)
        end = at + 1 + bits.read(lengths[bits.read(2)])
        if end > count:
            raise Bad(place, "a run goes on after the last pixel", REMEDY)
        # the pixels whose fourth value, at 4 * pixel + 3, is in this run
        pixels = slice(at // CHANNELS, end // CHANNELS)
        if is_repeated:
            found[pixels] = bits.read(value_bits)
        else:
            found[pixels] = bits.values(end - at, value_bits)[(3 - at) % CHANNELS :: CHANNELS]
        at = end
    return found


def encode_brush(mask: np.ndarray) -> bytes:
    """Return a mask, bool (H, W), as the run lengths of a brush stroke that is opaque there."""
    values = np.repeat(mask.reshape(-1), CHANNELS)
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], edges])
    header = [f"{len(values):032b}", f"{VALUE_BITS - 1:05b}"]
    header += [f"{bits - 1:04b}" for bits in LENGTH_BITS]
    runs = np.diff(np.concatenate([starts, [len(values)]])).tolist()
    found = [*header, *map(_run, runs, values[starts].tolist())]
    text = "".join(found)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _run(length: int, is_opaque: bool) -> str:
    """Return a run of one value as bits, in the shortest kind that holds its length."""
    value = "1" * VALUE_BITS if is_opaque else "0" * VALUE_BITS
    longest = 1 << LENGTH_BITS[-1]
    text = []
    while length > 0:
        part = min(length, longest)
        kind = next(kind for kind, bits in enumerate(LENGTH_BITS) if part <= 1 << bits)
        text.append(f"1{kind:02b}{part - 1:0{LENGTH_BITS[kind]}b}{value}")
        length -= part
    return "".join(text)

"""Reading, decoding, resizing and writing of pixels."""

import numpy as np
import pytest
from PIL import Image

from fastseg.data import images
from fastseg.utils.io import atomic_file

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.mark.parametrize(
    "mode,value",
    [("L", 200), ("RGBA", (9, 8, 7, 0)), ("CMYK", (0, 0, 0, 0)), ("I;16", 65535), ("P", 1)],
)
def test_images_of_every_mode_become_rgb(tmp_path, mode, value):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 4), value).save(path)
    pixels = images.read_image(path)
    assert pixels.shape == (4, 5, 3) and pixels.dtype == np.uint8
    if mode == "I;16":
        assert (pixels == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert images.read_image(tmp_path / "x.jpg").shape == (8, 4, 3)


def test_squish_and_crop_equal_fastai(tmp_path):
    from fastai.vision.augment import CropPad, PadMode, Resize, ResizeMethod
    from fastai.vision.core import PILImage

    image = np.random.default_rng(0).integers(0, 255, (57, 80, 3), dtype=np.uint8)
    for size in ((32, 40), (57, 81), (60, 33), (121, 121)):
        theirs = Resize(size, method=ResizeMethod.Squish)(PILImage.create(image), split_idx=1)
        assert (np.asarray(theirs) == images.resized(image, size, "squish")).all()
        theirs = CropPad(size, pad_mode=PadMode.Zeros)(PILImage.create(image))
        assert (np.asarray(theirs) == images.resized(image, size, "crop")).all()


def test_failed_writing_leaves_nothing(tmp_path):
    (tmp_path / "m.png").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "m.png") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "m.png").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_overlay_hides_background_and_unlabelled():
    image, codes = np.full((4, 6, 3), 100, np.uint8), np.zeros((4, 6), np.uint8)
    codes[:, 3:] = 1
    codes[0, 0] = images.IGNORE
    out = images.overlay(image, codes, PALETTE, hide=0)
    assert (out[1:, :3] == 100).all() and (out[0, 0] == 100).all() and (out[:, 4:] != 100).any()

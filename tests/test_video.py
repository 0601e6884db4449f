"""Videos: masks, overlays and tables of their frames; what is refused, and what stays usable."""

import errno
import json
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import refuses, rows_of
from PIL import Image
from video_clips import COLOURS, clip, colour_network, eye, read, times, write

import fastseg
from fastseg.inference import video as video_module
from fastseg.inference.predictor import Predictor
from fastseg.measuring import video as measures
from fastseg.measuring.video import FrameMeter
from fastseg.video import decoding, encoding, sources


@pytest.fixture
def colours(exports, monkeypatch):
    """Predictions by colour, so that the masks of drawn eyes are known."""
    exports("eye")  # it is fitted first, by a network
    monkeypatch.setattr(Predictor, "logits", colour_network)


@pytest.fixture
def predict(exports, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*paths, task="eye", out="out", **options):
        named = list(map(str, paths))
        return fastseg.predict(task, named, out, export=exports(task), runtime="onnx", **options)

    return call


@pytest.fixture
def segments(monkeypatch):
    """Segments of four frames."""
    monkeypatch.setattr(video_module, "SEGMENT", 4)


def scored(folder):
    """Return the mean foreground Dice of a video's masks of `eye`, and their flicker: the share of
    pixels that change from frame to frame where the drawn ones do not.
    """
    masks, _ = read(folder / "masks.mkv")
    true = [eye(i)[1] for i in range(len(masks))]
    dice = [
        2 * ((m == c) & (t == c)).sum() / ((m == c).sum() + (t == c).sum())
        for m, t in zip(masks, true)
        for c in (1, 2, 3)
    ]
    steps = zip(masks, masks[1:], true, true[1:])
    return np.mean(dice), np.mean([((a != b) & (s == t)).mean() for a, b, s, t in steps])


def test_a_video_gets_masks_an_overlay_and_a_table(run, exports, colours, tmp_path):
    clip(tmp_path / "eye.mp4")
    said = run("predict", "eye", "eye.mp4", "--out", "out", "--overlay", "--export", exports("eye"))
    assert all(f"out/eye/{name}" in said.out for name in ("masks.mkv", "overlay.mp4", "frames.csv"))
    assert {p.name for p in Path("out/eye").iterdir()} == {"masks.mkv", "overlay.mp4", "frames.csv"}
    masks, shown = read("out/eye/masks.mkv")
    overlays, at = read("out/eye/overlay.mp4", "rgb24")
    rows, ticks = rows_of("out/eye/frames.csv"), times(12)
    assert [int(row["frame"]) for row in rows] == list(range(12))
    assert [float(row["time"]) for row in rows] == [tick / 1000 for tick in ticks]
    assert np.allclose(shown, np.array(ticks) / 1000) and np.allclose(at, shown)
    for number, (mask, overlay, row) in enumerate(zip(masks, overlays, rows)):
        pixels, codes = eye(number)
        assert overlay.shape == pixels.shape
        assert (mask != codes).mean() < 0.02  # the model's size is another one
        assert float(row["share_pupil"]) == pytest.approx((mask == 3).mean(), abs=1e-6)
        assert row["needs_review"] in ("True", "False") and 0 < float(row["confidence"]) <= 1


def test_frames_are_predicted_like_images(predict, tmp_path):
    pictures = [eye(i, noise=20)[0] for i in range(5)]
    write(tmp_path / "eye.mkv", pictures, codec="ffv1", layout="bgr0")
    (tmp_path / "images").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "images" / f"{number}.png")
    predict("images", out="plain")
    written = predict("eye.mkv", frames=True)
    assert list(written) == [Path("out/eye/masks"), Path("out/eye/frames.csv")]
    assert written.videos[0].to_json()["frames"] == 5
    plain, rows = rows_of("plain/predictions.csv"), rows_of("out/eye/frames.csv")
    for number, (row, one) in enumerate(zip(rows, plain)):
        assert row["mask"] == f"masks/{number:06d}.png"
        found = np.asarray(Image.open(tmp_path / "out" / "eye" / row["mask"]))
        assert (found == np.asarray(Image.open(tmp_path / "plain" / f"{number}.png"))).all()
        assert {key: row[key] for key in one if key in row and key != "mask"} == {
            key: one[key] for key in one if key not in ("image", "mask")
        }


def test_colours_and_odd_sizes(predict, tmp_path):
    write(
        tmp_path / "pan.mkv", [np.full((45, 63, 3), 90, np.uint8)] * 3, codec="ffv1", layout="bgr0"
    )
    predict("pan.mkv", task="kitchen", overlay=True)
    masks, _ = read("out/pan/masks.mkv", "rgb24")
    palette = set(fastseg.tasks.get("kitchen").palette)
    assert {tuple(c) for c in masks[0].reshape(-1, 3).tolist()} <= palette
    assert masks[0].shape == (45, 63, 3)
    assert read("out/pan/overlay.mp4", "rgb24")[0][0].shape == (46, 64, 3)


def test_a_task_of_classes_gets_a_table(predict, tmp_path):
    clip(tmp_path / "scan.mp4", 3)
    assert list(predict("scan.mp4", task="mri")) == [Path("out/scan/frames.csv")]
    assert len(rows_of("out/scan/frames.csv")) == 3 and rows_of("out/scan/frames.csv")[0]["class"]


@pytest.mark.parametrize("rotation, quarters", [(-90, 3), (180, 2)])
def test_the_rotation_flag_is_honoured(predict, colours, tmp_path, rotation, quarters):
    clip(tmp_path / "phone.mp4", 2, rotation=rotation)
    predict("phone.mp4")
    mask = read("out/phone/masks.mkv")[0][0]
    assert (mask != np.rot90(eye(0)[1], quarters)).mean() < 0.03


@pytest.mark.parametrize("smooth", [0, 0.1])
def test_an_interrupted_run_continues(predict, colours, segments, monkeypatch, tmp_path, smooth):
    clip(tmp_path / "eye.mp4", 14, noise=25)
    predict("eye.mp4", out="whole", smooth=smooth, overlay=True)
    draw = video_module.VideoRun._draw

    def interrupted(self, frame, prediction):
        if frame.index == 9:
            raise KeyboardInterrupt
        return draw(self, frame, prediction)

    monkeypatch.setattr(video_module.VideoRun, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict("eye.mp4", smooth=smooth, overlay=True)
    assert not Path("out/eye/frames.csv").exists()
    assert len(read("out/eye/unfinished/mask_00001.mkv")[0]) == 4  # what is finished can be used
    monkeypatch.setattr(video_module.VideoRun, "_draw", draw)
    result = predict("eye.mp4", smooth=smooth, overlay=True).videos[0]
    assert (result.frames, result.reused) == (14, 8)
    assert Path("out/eye/frames.csv").read_bytes() == Path("whole/eye/frames.csv").read_bytes()
    for name in ("masks.mkv", "overlay.mp4"):
        (found, shown), (whole, at) = (read(f"{out}/eye/{name}") for out in ("out", "whole"))
        assert (np.array(found) == np.array(whole)).all() and shown == at
    assert not Path("out/eye/unfinished").exists()
    assert predict("eye.mp4", smooth=smooth, overlay=True).videos[0].reused == 0


def test_a_folder_holds_the_results_of_one_run(predict, colours, tmp_path):
    clip(tmp_path / "eye.mp4", 7)
    predict("eye.mp4", overlay=True, frames=True, meter=FrameMeter())
    folder = tmp_path / "out" / "eye"
    for name in ("notes.txt", "masks/mine.png", "masks/.rx4nbh46.png"):
        (folder / name).write_text("mine")  # the last one is a file of a run that was killed
    clip(tmp_path / "eye.mp4", 3)
    predict("eye.mp4", frames=True)
    pictures = {"000000.png", "000001.png", "000002.png", "mine.png"}
    assert {path.name for path in (folder / "masks").iterdir()} == pictures
    assert {path.name for path in folder.iterdir()} == {"masks", "frames.csv", "notes.txt"}
    (folder / "masks" / "mine.png").unlink()
    predict("eye.mp4")
    assert {path.name for path in folder.iterdir()} == {"masks.mkv", "frames.csv", "notes.txt"}


@pytest.mark.parametrize("name", ["unfinished/notes.txt", "frames.csv", "masks/000000.png"])
def test_files_of_others_are_not_replaced(predict, tmp_path, name):
    clip(tmp_path / "eye.mp4", 2)
    file = tmp_path / "out" / "eye" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with refuses("not-empty", name.partition("/")[0]):
        predict("eye.mp4")
    assert file.read_text() == "mine"


def test_each_failure_is_told(run, exports, colours, tmp_path):
    for name in ("12:30.mp4", "empty.mp4", "text.mp4"):
        clip(tmp_path / name, 3)
    emptied(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    command = ("predict", "eye", "12:30.mp4", "empty.mp4", "text.mp4", "--out", "out")
    failed = run(*command, "--export", exports("eye"), error="empty-video")
    assert "empty.mp4: is empty" in failed.message and "1 more failed: text.mp4" in failed.message
    assert len(rows_of("out/12:30/frames.csv")) == 3
    assert "text.mp4: is no video" in failed.err


def test_another_video_does_not_continue_from_an_interrupted_one(
    predict, colours, segments, monkeypatch, tmp_path
):
    clip(tmp_path / "eye.mp4", 9)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "join", None)
        patch.setattr(video_module, "join", None)
        with pytest.raises(TypeError):
            predict("eye.mp4")
    clip(tmp_path / "eye.mp4", 7)
    assert predict("eye.mp4").videos[0].reused == 0
    assert len(read("out/eye/masks.mkv")[0]) == 7


def test_smoothing_lowers_flicker_but_not_dice(predict, colours, tmp_path):
    clip(tmp_path / "eye.mkv", 40, noise=60, codec="ffv1", layout="bgr0")
    predict("eye.mkv", out="plain")
    predict("eye.mkv", out="smooth", smooth=0.1)
    (dice, flicker), (smooth_dice, smooth_flicker) = (
        scored(Path(out) / "eye") for out in ("plain", "smooth")
    )
    assert smooth_flicker < 0.6 * flicker and smooth_dice >= dice, (
        dice,
        flicker,
        smooth_dice,
        smooth_flicker,
    )


def test_few_frames_are_in_memory(predict, colours, segments, monkeypatch, tmp_path):
    clip(tmp_path / "eye.mp4", 200)
    decoded, most = [0], [0]
    upright, write_frame = decoding._upright, encoding.Writer.write

    def counted(frame):
        decoded[0] += 1
        return upright(frame)

    def encoded(self, pixels, ticks):
        write_frame(self, pixels, ticks)
        most[0] = max(most[0], decoded[0])
        decoded[0] -= 1

    monkeypatch.setattr(decoding, "_upright", counted)
    monkeypatch.setattr(encoding.Writer, "write", encoded)
    predict("eye.mp4", bs=2, smooth=0.1)
    assert decoded[0] == 0 and most[0] < 60


@pytest.mark.parametrize("name", ["eye.mp4", "eye.mkv"])
def test_the_last_frame_may_be_shown_for_long(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = 48, 64
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(eye(number)[0], format="rgb24")
            for packet in stream.encode(frame):
                packet.duration = 1 if number < 49 else 40
                container.mux(packet)
    with decoding.Recording(str(tmp_path / name)) as video:
        assert len(list(video.frames())) == 50 and video.error is None


def test_times_where_avi_has_b_frames(tmp_path):
    with av.open(str(tmp_path / "eye.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(eye(number)[0], format="rgb24")))
        container.mux(stream.encode())
    with decoding.Recording(str(tmp_path / "eye.avi")) as video:
        found = [video.seconds(frame.ticks) for frame in video.frames()]
    assert np.allclose(found, np.arange(12) / 25)


def test_folders_patterns_and_limits(predict, colours, caplog, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mkv"):
        clip(tmp_path / "clips" / name, 5)
    done = predict("clips", out=None, limit=0.12).videos
    assert [(video.folder, video.frames) for video in done] == [
        (Path("clips_inf_masks/a"), 3),
        (Path("clips_inf_masks/b"), 3),
    ]
    assert len(predict("clips/*.mp4").videos) == 1
    (tmp_path / "frames").mkdir()
    for start, number in product(("", "eye_"), range(7, 12)):
        Image.fromarray(eye(number)[0]).save(tmp_path / "frames" / f"{start}{number:03d}.png")
    assert predict("frames/%03d.png").videos[0].folder == Path("out/frames")
    predict("frames/eye_%03d.png")
    assert [float(row["time"]) for row in rows_of("out/eye/frames.csv")] == [
        0, 0.04, 0.08, 0.12, 0.16
    ]  # fmt: skip
    Image.fromarray(eye(0)[0]).save(tmp_path / "clips" / "photo.png")  # as phones store them
    written = predict("clips", out="photos")
    assert [p.name for p in written.skipped] == ["a.mp4", "b.mkv"] and not written.videos


def halved(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [emptied, halved])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_broken_image_of_a_sequence_is_named(run, exports, colours, tmp_path, spoil, suffix):
    folder = tmp_path / "100%03d"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(eye(number, noise=20)[0]).save(folder / f"s:{number:02d}{suffix}")
    spoil(folder / f"s:03{suffix}")
    command = ("predict", "eye", f"100%03d/s:%02d{suffix}", "--out", "a:b")
    failed = run(*command, "--export", exports("eye"), error="unreadable-image")
    assert f"s:03{suffix}" in failed.message and "3 frames" in failed.message
    assert len(rows_of("a:b/s:/frames.csv")) == len(read("file:a:b/s:/masks.mkv")[0]) == 3


def test_a_camera(predict, colours, monkeypatch):
    with refuses("no-limit", "camera:0"):
        predict("camera:0")
    monkeypatch.setattr(decoding, "CAMERAS", {"linux": ("no_such_format", "{}")})
    with refuses("no-camera", "camera:0", "no_such_format"):
        predict("camera:0", limit=0.2)
    drawn = ("lavfi", "testsrc=size=64x48:rate=25,setpts=PTS+{}")
    monkeypatch.setattr(decoding, "CAMERAS", {"linux": drawn})
    assert predict("camera:0", limit=0.2).videos[0].frames == 5
    assert len(read("out/camera_0/masks.mkv")[0]) == 5


def without_codec(path):
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def encrypted(path):
    keys = dict.fromkeys(("encryption_key", "encryption_kid"), "0123456789abcdef" * 2)
    clip(path, container_options={"encryption_scheme": "cenc-aes-ctr", **keys})


@pytest.mark.parametrize(
    "spoil, code",
    [
        (halved, "unreadable-video"),
        (emptied, "empty-video"),
        (lambda path: path.write_text("no video"), "unreadable-video"),
        (without_codec, "damaged-video"),
        (sound, "no-pictures"),
        (encrypted, "encrypted-video"),
        (Path.unlink, "no-such-path"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(fails, exports, tmp_path, spoil, code):
    path = clip(tmp_path / "eye.mp4")
    spoil(path)
    fails("predict", "eye", "eye.mp4", "--export", exports("eye"), code=code, values=["eye.mp4"])


def damaged(path):
    """Overwrite the second half of an MP4 file, whose index is at its beginning."""
    clip(path, 60, options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\xff"))


def cut(path):
    clip(path, 60, noise=20)
    halved(path)


def resized(path):
    """Join two transport streams of different sizes."""
    parts = [path.with_name("1.ts"), path.with_name("2.ts")]
    write(parts[0], [eye(i)[0] for i in range(6)], codec="libx264", layout="yuv420p")
    write(parts[1], [eye(i, (32, 32))[0] for i in range(6)], codec="libx264", layout="yuv420p")
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


@pytest.mark.parametrize(
    "make, name, code, fewest",
    [
        (damaged, "eye.mp4", "damaged-video", 2),
        (cut, "eye.mkv", "truncated-video", 10),
        (resized, "eye.ts", "frame-size", 6),
    ],
)
def test_the_frames_before_damage_are_kept(
    run, exports, colours, tmp_path, make, name, code, fewest
):
    make(tmp_path / name)
    clip(tmp_path / "other.mp4", 3)
    failed = run(
        "predict", "eye", name, "other.mp4", "--out", "out", "--export", exports("eye"), error=code
    )
    rows = rows_of("out/eye/frames.csv")
    assert fewest <= len(rows) < 60 and len(read("out/eye/masks.mkv")[0]) == len(rows)
    assert f"{len(rows)} frames" in failed.message and "out/eye" in failed.message
    assert len(failed.details["written"]) == 4 and len(rows_of("out/other/frames.csv")) == 3
    assert not Path("out/eye/unfinished").exists()


def test_a_full_disk_leaves_finished_segments(
    run, exports, colours, segments, monkeypatch, tmp_path
):
    clip(tmp_path / "eye.mp4", 12)
    command = ("predict", "eye", "eye.mp4", "--out", "out", "--export", exports("eye"))
    write_frame, number = encoding.Writer.write, iter(range(100))

    def full(self, pixels, ticks):
        if next(number) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_frame(self, pixels, ticks)

    with monkeypatch.context() as patch:
        patch.setattr(encoding.Writer, "write", full)
        failed = run(*command, error="not-writable")
    assert "No space left" in failed.message
    assert sorted(p.name for p in Path("out/eye/unfinished").iterdir()) == [
        f"{what}_0000{n}.{end}"
        for what, end in (("frames", "csv"), ("mask", "mkv"))
        for n in (0, 1)
    ]
    assert json.loads(run(*command, "--json").out)["videos"][0]["reused"] == 8


def test_what_is_not_for_videos_is_refused(fails, exports, monkeypatch, tmp_path):
    clip(tmp_path / "eye.mp4", 2)
    clip(tmp_path / "eye.mkv", 2)
    Image.fromarray(COLOURS[None].astype(np.uint8)).save(tmp_path / "a_1.png")
    Image.fromarray(COLOURS[None].astype(np.uint8)).save(tmp_path / "a_3.png")
    start = ("predict", "eye", "--export", exports("eye"))
    for arguments, code, values in [
        (["eye.mp4", "a_1.png"], "mixed-inputs", ["eye.mp4", "a_1.png"]),
        (["eye.mp4", "eye.mkv"], "same-target", ["eye.mp4", "eye.mkv"]),
        (["eye.mp4", "--probabilities"], "not-for-videos", ["eye.mp4", "--probabilities"]),
        (["eye.mp4", "--workers", "2"], "not-for-videos", ["--workers"]),
        (["eye.mp4", "--out", "masks.mkv"], "one-file-for-many", ["masks.mkv"]),
        (["eye.mp4", "--smooth", "2"], "option-range", ["--smooth"]),
        (["a_1.png", "--smooth", "0.1"], "only-for-videos", ["--smooth"]),
        (["a_%d.png"], "missing-frame", ["a_%d.png", "2"]),
        (["b_%d.png"], "no-such-path", ["b_%d.png"]),
    ]:
        fails(*start, *arguments, code=code, values=values)
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    fails(*start, "eye.mp4", code="no-video", values=["eye.mp4", "fastseg[video]"])


def test_measures_follow_a_drawn_course(run, exports, colours, tmp_path):
    clip(tmp_path / "eye.mp4", 60)
    command = ("predict", "eye", "eye.mp4", "--out", "out", "--export", exports("eye"))
    said = run(*command, "--measure", "--ratio", "pupil/iris").out
    assert "out/eye/curves.html" in said
    rows = rows_of("out/eye/frames.csv")
    drawn = [eye(number)[1] for number in range(60)]
    diameters = [2 * np.sqrt((codes == 3).sum() / np.pi) for codes in drawn]
    away = [float(row["pupil_diameter"]) - true for row, true in zip(rows, diameters)]
    assert np.abs(away).max() < 0.5  # px
    for row in rows:
        ratio = float(row["pupil_outer_diameter"]) / float(row["iris_outer_diameter"])
        assert float(row["pupil/iris"]) == pytest.approx(ratio, rel=1e-4)
    page = Path("out/eye/curves.html").read_text()
    assert all(
        text in page
        for text in ("60 frames", "pupil: outer diameter", "pupil/<wbr>iris (ratio)", "data:image")
    )
    run(*command, "--ratio", "pupil/nose", error="unknown-class")
    run(*command, "--spacing", "0", error="spacing")
    run(*command, "--measure", "--level", "0.2", error="option-range")


def test_measures_of_frames_are_in_mm_by_their_spacing(predict, colours, tmp_path):
    clip(tmp_path / "eye.mp4", 3)
    rows, ratio = {}, ["pupil.area/iris.area"]
    for name, spacing in (("px", None), ("mm", "0.1x0.2")):
        meter = FrameMeter(ratio, spacing)
        predict("eye.mp4", out=tmp_path / name, meter=meter)
        rows[name] = rows_of(tmp_path / name / "eye/frames.csv")
    for px, mm in zip(rows["px"], rows["mm"]):
        assert (px["unit"], mm["unit"]) == ("px", "mm")
        for name, factor in (("pupil_area", 0.02), ("iris_centroid_x", 0.2)):
            assert float(mm[name]) == pytest.approx(factor * float(px[name]), rel=1e-4)
        assert mm[ratio[0]] == px[ratio[0]]
    assert "outer diameter (mm)" in (tmp_path / "mm/eye/curves.html").read_text()


def test_absent_classes_have_empty_cells(predict, colours, tmp_path):
    pictures = [eye(0)[0], np.broadcast_to(COLOURS[0], (48, 64, 3)).astype(np.uint8)]
    write(tmp_path / "blink.mkv", pictures, codec="ffv1", layout="bgr0")
    predict("blink.mkv", meter=FrameMeter())
    open_, closed = rows_of("out/blink/frames.csv")
    assert float(open_["pupil_area"]) > 20 and float(closed["pupil_area"]) == 0
    assert closed["pupil_diameter"] == "" and open_["pupil_diameter"] != ""
    assert "absent in 1 of 2 frames" in Path("out/blink/curves.html").read_text()


def test_curves_cover_the_whole_video():
    gone = np.full(5, np.nan)
    arrays = {"time": np.arange(5.0), "iris": np.arange(5.0), "pupil": gone.copy()}
    arrays["pupil"][1:3] = 4
    arrays |= {f"{name}_{end}": gone for name in ("iris", "pupil") for end in ("low", "high")}
    axes = [measures._curve(arrays, name, (0, 0, 0)).axes[0] for name in ("iris", "pupil")]
    assert [axis.get_xlim() for axis in axes] == [(0, 4)] * 2
    assert axes[0].get_position().bounds == axes[1].get_position().bounds

"""The page Data: images by part, class and fault; suspected labels; thumbnails."""

import asyncio
import io
import shutil
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from fastseg.checks.dataset import check
from fastseg.utils.text import natural_key


@pytest.fixture
def data(samples, tmp_path):
    """A copy of the eyes with an empty mask, and a copy of an image in another set."""
    folder = shutil.copytree(samples["eye"], tmp_path / "eye")
    masks = sorted((folder / "masks_small").iterdir())
    Image.fromarray(np.zeros_like(pixels(masks[0]))).save(masks[0])
    return folder


def pixels(file, mode=None):
    """Return the pixels of a file, or of a file's content."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return np.asarray(image.convert(mode) if mode else image)


def client_of(server):
    headers = {"Authorization": f"Bearer {server.keys.token}"}
    return httpx.Client(base_url=server.address, headers=headers, timeout=60)


@pytest.fixture
def client(serve, data):
    with client_of(serve("eye", data)) as found:
        yield found


def summary(client, seconds=60):
    """Return the summary when the check is done."""
    for _ in range(int(seconds / 0.1)):
        found = client.get("/api/data").json()
        if found["check"]["state"] != "checking":
            return found
        time.sleep(0.1)
    raise AssertionError("the check did not end")


def images(client, **asked):
    return client.get("/api/data/images", params=asked).json()


def test_images_are_shown_by_part_class_and_fault(client, data):
    found = summary(client)
    assert found["images"] == sum(found["parts"].values()) == 16
    assert found["parts"]["valid"] > 0
    expected = check("eye", data)
    assert found["check"]["kinds"] == expected.kinds and "empty mask" in expected.kinds
    assert images(client)["total"] == 16
    held_out = images(client, part="valid")
    assert {image["part"] for image in held_out["images"]} == {"valid"}
    faulty = images(client, fault="empty mask")["images"]
    assert [fault["kind"] for fault in faulty[0]["faults"]] == ["empty mask"] and len(faulty) == 1
    assert faulty[0] in images(client, fault="any")["images"]
    pupils = images(client, **{"class": 3})
    assert pupils["total"] == found["classes"][3] == 15  # not the empty one
    assert faulty[0]["id"] not in {image["id"] for image in pupils["images"]}
    name = faulty[0]["name"].split("/")[1]
    assert name in {i["name"].split("/")[1] for i in images(client, text=name.upper())["images"]}
    one = client.get(f"/api/images/{faulty[0]['id']}").json()
    assert one["classes"] == [0] and one["has_label"]


def test_pages_of_images_are_cut_from_one_list(client, data):
    for name in ("imgs_small", "masks_small"):
        file = next((data / name).glob("set_1_frame_0.*"))
        shutil.copy(file, file.with_stem("set_10_frame_0"))
    whole = images(client, count=500)["images"]
    parts = [images(client, **{"from": start, "count": 5})["images"] for start in range(0, 20, 5)]
    assert sum(parts, []) == whole
    names = [image["name"] for image in whole]
    assert names == sorted(names, key=natural_key) != sorted(names)
    for asked in ({"count": 501}, {"from": -1}, {"from": "x"}, {"class": 9}):
        response = client.get("/api/data/images", params=asked)
        assert response.json()["error"]["code"] == "bad-request"


def test_a_check_that_was_done_is_not_done_again(serve, data, monkeypatch):
    with client_of(serve("eye", data)) as client:
        before = summary(client)
    from fastseg.checks import dataset

    examined = []
    original = dataset._examine_as_json
    monkeypatch.setattr(
        dataset, "_examine_as_json", lambda t, i: examined.append(i) or original(t, i)
    )
    mask = sorted((data / "masks_small").iterdir())[1]
    Image.fromarray(np.zeros_like(pixels(mask))).save(mask)
    with client_of(serve("eye", data)) as client:
        after = summary(client)
    assert [item.label for item in examined] == [mask]  # the one that changed
    assert after["check"]["kinds"]["empty mask"] == before["check"]["kinds"]["empty mask"] + 1


def test_suspected_labels_of_the_export_come_first(serve, data, tmp_path):
    export = tmp_path / "exports" / "eye"
    export.mkdir(parents=True)
    names = [f"imgs_small/{file.name}" for file in sorted((data / "imgs_small").iterdir())]
    rows = [f"1,{names[5]},0.1,iris,pupil", f"2,{names[2]},0.2,sclera,iris", f"3,{names[0]},0.9,,"]
    (export / "suspects.csv").write_text(
        "\n".join(["rank,image,quality,labelled,predicted", *rows])
    )
    with client_of(serve("eye", data, export=export)) as client:
        assert client.get("/api/data").json()["suspects"] == 2
        found = images(client, suspect=1)["images"]
    assert [image["name"] for image in found] == [names[5], names[2]]
    assert found[0]["suspect"] == {"labelled": "iris", "predicted": "pupil"}


def test_a_folder_without_images_says_what_is_expected(serve, tmp_path):
    with client_of(serve("eye", tmp_path)) as client:
        found = client.get("/api/data").json()
        assert found["images"] == 0 and "imgs_small" in found["fault"]
        assert client.get("/data").status_code == 200


def test_thumbnails_change_with_the_files(client, data):
    one = images(client)["images"][1]  # the first one has an empty mask
    address = f"/api/images/{one['id']}/thumbnail"
    plain, labelled = client.get(address), client.get(address, params={"labels": 1})
    assert plain.content != labelled.content
    small, whole = pixels(plain.content).shape, pixels(data / one["name"]).shape
    assert max(small[:2]) == min(320, max(whole[:2]))
    assert small[1] / small[0] == pytest.approx(whole[1] / whole[0], abs=0.02)
    again = client.get(address, headers={"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    Image.new("RGB", (whole[1], whole[0]), "red").save(data / one["name"])
    changed = client.get(address, headers={"If-None-Match": plain.headers["etag"]})
    assert changed.status_code == 200
    red = pixels(changed.content)
    assert red[..., 0].min() > 200 and red[..., 1].max() < 60


def test_pictures_are_exact_and_masks_have_the_colours_of_their_classes(client, data):
    one = images(client)["images"][3]
    content = client.get(f"/api/images/{one['id']}/picture", params={"format": "png"}).content
    expected = pixels(data / one["name"], "RGB")
    assert np.array_equal(pixels(content), expected)
    classes = client.get("/api/task").json()["classes"]
    overlay = client.get(f"/api/images/{one['id']}/overlay").content
    colours = pixels(overlay, "RGBA")
    codes = pixels(data / one["name"].replace("imgs", "masks").replace("jpg", "png"))
    codes = codes if codes.ndim == 2 else codes[..., 0]
    assert (colours[codes == 0][:, 3] == 0).all()
    iris = tuple(int(classes[2]["colour"][at : at + 2], 16) for at in (1, 3, 5))
    assert (codes == 2).any() and (colours[codes == 2] == (*iris, 255)).all()


def test_two_hundred_thumbnails_at_once_are_all_answered(serve, samples):
    server = serve("eye", samples["eye"])
    headers = {"Authorization": f"Bearer {server.keys.token}"}

    async def storm():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=server.address, headers=headers, timeout=120, limits=limits
        ) as client:
            found = (await client.get("/api/data/images")).json()["images"]
            asked = [
                client.get(f"/api/images/{found[k % 16]['id']}/thumbnail?labels={k % 2}")
                for k in range(200)
            ]
            return await asyncio.gather(*asked, client.get("/api/task"))

    *pictures, task = asyncio.run(storm())
    assert {answer.status_code for answer in (*pictures, task)} == {200}
    assert len({answer.content for answer in pictures}) == len(
        {(k % 16, k % 2) for k in range(200)}
    )
    for answer in pictures:
        assert pixels(answer.content).size

"""Predictions on a Ray cluster of two nodes, over S3, and without a shared disk: the same bytes."""

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import refuses, results_in, rows_of

import fastseg
from fastseg.engines.choice import engine_of

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    # Ray and its dependencies leave sockets and files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def store():
    """Return the endpoint of an S3 server on this machine, in the environment of all processes."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ.update({**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    yield f"http://{host}:{port}"
    os.environ.clear()
    os.environ.update(before)
    server.stop()


@pytest.fixture(scope="module")
def cluster(store):
    """A cluster of two nodes of one core each; its workers inherit the keys of the S3 server."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def photos(samples, tmp_path_factory):
    """A folder of 100 images, four shards, and what a prediction here makes of them."""
    folder = tmp_path_factory.mktemp("photos")
    files = sorted((samples["eye"] / "imgs_small").iterdir())
    for number in range(100):
        shutil.copy(files[number % len(files)], folder / f"{number:03d}.jpg")
    return folder


@pytest.fixture(scope="module")
def expected(photos, exports, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    fastseg.predict("eye", photos, out, export=exports("eye"), engine="local")
    return results_in(out)


def test_more_workers_than_cores_write_the_same_bytes(cluster, photos, expected, exports, tmp_path):
    done = fastseg.predict(
        "eye",
        photos,
        tmp_path / "out",
        export=exports("eye"),
        engine="ray",
        workers=4,
        address=cluster.address,
    )
    assert done.run.images == 100
    assert results_in(tmp_path / "out") == expected


def test_from_bucket_to_bucket(cluster, store, photos, expected, exports):
    import s3fs

    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    files.put(str(photos), "bucket/photos", recursive=True)
    given = dict(export=exports("eye"), engine="ray", address=cluster.address)
    done = fastseg.predict("eye", "s3://bucket/photos", "s3://bucket/masks", **given)
    assert done.run.images == 100
    masks = {name: data for name, data in expected.items() if name.endswith(".png")}
    assert {Path(p).name: files.cat(p) for p in files.glob("bucket/masks/*.png")} == masks
    rows = files.cat("bucket/masks/predictions.csv").decode().splitlines()[1:]
    names = [row.partition(",")[0].rpartition("/")[2] for row in rows]
    assert names == sorted(path.name for path in photos.iterdir())
    # here, from the same bucket: the state is at the destination, whatever the engine
    again = fastseg.predict("eye", "s3://bucket/photos", "s3://bucket/masks", export=exports("eye"))
    assert again.run.reused == 100


def test_mistakes_about_buckets(store, cluster, exports):
    given = dict(export=exports("eye"))
    with refuses("no-such-path", "s3://bucket/nothing"):
        fastseg.predict("eye", "s3://bucket/nothing", "s3://bucket/x", **given)
    with refuses("no-such-path", "s3://no-such-bucket/photos"):
        fastseg.predict("eye", "s3://no-such-bucket/photos", "s3://bucket/x", **given)
    with refuses("no-such-path", "s3://no-such-bucket/x"):
        fastseg.predict("eye", "s3://bucket/photos", "s3://no-such-bucket/x", **given)


def test_without_a_shared_disk_the_bytes_travel(
    cluster, photos, expected, samples, exports, tmp_path, monkeypatch
):
    from fastseg.engines.ray import RayEngine

    monkeypatch.setattr(RayEngine, "blind_node", lambda self, paths: "far away")
    done = fastseg.predict(
        "eye",
        photos,
        tmp_path / "out",
        export=exports("eye"),
        engine="ray",
        address=cluster.address,
    )
    assert done.run.images == 100
    assert results_in(tmp_path / "out") == expected
    with refuses("not-on-cluster", "far away"):
        fastseg.check("eye", samples["eye"], engine="ray", address=cluster.address)


def test_an_8_bit_model_does_not_travel(cluster, photos, exports, tmp_path, monkeypatch):
    from fastseg.engines.ray import RayEngine

    export = shutil.copytree(exports("eye"), tmp_path / "eye")
    fastseg.export(export, "onnx-int8")
    given = dict(export=export, runtime="onnx-int8", engine="ray", address=cluster.address)
    monkeypatch.setattr(RayEngine, "blind_node", lambda self, paths: "far away")
    with refuses("int8-on-cluster", export):
        fastseg.predict("eye", photos, tmp_path / "out", **given)


def test_a_machine_that_does_not_see_a_file_is_named(cluster, photos, tmp_path):
    with engine_of("ray", address=cluster.address) as engine:
        assert engine.blind_node([photos]) is None
        assert engine.blind_node([tmp_path / "nowhere"])


def test_a_node_that_is_killed_loses_nothing(cluster, photos, expected, exports, tmp_path):
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    parts = tmp_path / "out" / ".fastseg"

    def kill():
        while not list(parts.glob("part-*")):
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    done = fastseg.predict(
        "eye",
        photos,
        tmp_path / "out",
        export=exports("eye"),
        engine="ray",
        address=cluster.address,
    )
    killer.join()
    assert done.run.images == 100
    assert results_in(tmp_path / "out") == expected


def test_addresses_where_no_cluster_is(cluster):
    with refuses("no-cluster", "127.0.0.1:1"), engine_of("ray", address="127.0.0.1:1"):
        pass
    with refuses("cluster-address", "host:port"), engine_of("ray", address="host:port"):
        pass
    with refuses("no-gpus", 3), engine_of("ray", address=cluster.address, num_gpus=3):
        pass


def test_a_node_with_another_version_is_named(cluster, monkeypatch):
    monkeypatch.setattr("fastseg.engines.ray.__version__", "0.0.1")
    with (
        refuses("cluster-version", "0.0.1", fastseg.__version__),
        engine_of("ray", address=cluster.address),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_check_and_evaluate_on_a_cluster(cluster, samples, exports, tmp_path):
    given = dict(data=samples["eye"], export=exports("eye"), out=tmp_path / "out")
    alone = fastseg.evaluate("eye", **given)
    shutil.rmtree(tmp_path / "out")
    assert fastseg.evaluate("eye", **given, engine="ray", address=cluster.address) == alone
    assert rows_of(tmp_path / "out" / "per_image.csv")

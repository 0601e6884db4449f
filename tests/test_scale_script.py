"""scripts/scale.py: the simulation agrees with arithmetic, and every shard is done once."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("simpy", reason="needs the extra scale")
SCRIPT = Path(__file__).parents[1] / "scripts" / "scale.py"


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_script"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scale_script"]


@pytest.fixture(scope="module")
def even(scale):
    """A setting without chance: 80 shards for 4 workers."""
    return scale.Setting(
        images=80 * 256, workers=4, spread=0, stragglers=0, preemptions=0, wave=0, seconds=0.1
    )


def test_hours_are_those_of_the_arithmetic(scale, even):
    seconds = (
        80
        / 4
        * (
            256 * (0.1 + even.reading + even.writing)  # computing covers the waiting for files
            + 2 * even.get  # HEAD, DELETE
            + even.list
            + 2 * even.put
        )
    )
    listing = 21 * even.list + even.images * even.listing
    merge = even.images * even.merge + 80 * 3 * 2 * even.get
    outcome = scale.simulate(even)
    expected = listing + even.engine + even.start + seconds + merge
    assert outcome.hours == pytest.approx(expected / 3600)
    assert outcome.lost_hours == outcome.preemptions == 0
    assert outcome.gets == 2 * even.images + 80 * (1 + 3 * 2)
    assert outcome.puts == even.images + 80 * 3 + 21


def test_waiting_counts_where_it_is_longer_than_computing(scale, even):
    slow = replace(even, get=10.0, merge=0, listing=0)
    files = 256 / 16 * (2 * slow.get + slow.put)
    notes = 2 * slow.get + slow.list + 2 * slow.put
    expected = 21 * slow.list + slow.engine + slow.start + 20 * (files + notes) + 80 * 6 * slow.get
    assert scale.simulate(slow).hours == pytest.approx(expected / 3600)


def test_waves_start_the_workers_again(scale, even):
    waves = scale.simulate(replace(even, wave=20))
    assert waves.hours - scale.simulate(even).hours == pytest.approx(3 * even.start / 3600)


def test_packed_shards_need_fewer_requests(scale, even):
    packed = scale.simulate(replace(even, pack=True, tar=True))
    assert packed.puts == 80 * 4
    assert packed.gets == 80 * (2 + 1 + 1 + 6)
    assert packed.hours < scale.simulate(even).hours


@pytest.mark.parametrize("seed", range(5))
def test_preemption_costs_hours_and_loses_nothing(scale, even, seed):
    preempted = replace(even, preemptions=5.0, wave=30, seed=seed)
    outcome = scale.simulate(preempted)
    assert outcome.preemptions > 0 and outcome.lost_hours > 0
    assert outcome.hours > scale.simulate(even).hours
    assert outcome.done == dict.fromkeys(range(80), 1)
    assert scale.simulate(preempted) == outcome


def test_stragglers_cost_hours(scale, even):
    outcome = scale.simulate(replace(even, stragglers=0.25, factor=3.0))
    assert outcome.hours > scale.simulate(even).hours
    assert outcome.done == dict.fromkeys(range(80), 1)


def test_a_sample_agrees_with_the_whole(scale):
    setting = scale.Setting(images=3 * 10**6, workers=160, preemptions=0.5)
    whole, sample = scale.simulate(setting), scale.simulate(setting, sample=3000)
    assert (whole.sampled, sample.sampled) == (1, 4)
    assert sample.hours == pytest.approx(whole.hours, rel=0.05)
    assert sample.utilisation == pytest.approx(whole.utilisation, rel=0.05)


def test_the_command_prints_a_table_or_json():
    command = [sys.executable, str(SCRIPT), "--images", "1e5", "--workers", "4", "16"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(table.splitlines()) == 3
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    runs = json.loads(done)["runs"]
    assert [run["done"] for run in runs] == [391, 391]
    assert runs[0]["hours"] > runs[1]["hours"]

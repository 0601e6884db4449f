"""Long jobs on each engine: taken one by one, given again when a worker dies."""

import os
from pathlib import Path

import pytest
from conftest import refuses
from engine_work import Doubling

from fastseg.engines.choice import engine_of


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray"])
def test_long_jobs_are_taken_one_by_one(name, tmp_path, monkeypatch):
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # Ray's workers import the work
    taken, results = [], {}

    def jobs():
        for job in range(6):
            taken.append((job, len(results)))
            yield job

    with engine_of(name, workers=2) as engine:
        for number, result in engine.run_long(Doubling(str(tmp_path)), jobs()):
            results[number] = result
        assert results == {number: 2 * number for number in range(6)}
        assert (tmp_path / "killed").exists()
        # A job is taken when all but one of those before have a result: two have workers.
        assert all(done >= job - 1 for job, done in taken)
        with refuses("expected"):
            list(engine.run_long(Doubling(str(tmp_path)), [1, -1]))
        engine.require_sight(tmp_path)

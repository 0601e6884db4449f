"""Engines: jobs in this process and in processes; dead workers, errors, limits of threads."""

import os

import pytest
from conftest import refuses
from engine_work import Counting

from fastseg.engines.base import in_order
from fastseg.engines.choice import engine_of


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_every_job_is_done_once_and_results_can_be_put_in_order(workers):
    with engine_of("local", workers) as engine:
        found = list(in_order(engine, Counting(), range(20)))
    assert [value for value, _, _ in found] == [2 * job for job in range(20)]
    pids = {pid for _, pid, _ in found}
    assert pids == {os.getpid()} if engine.is_here else os.getpid() not in pids


def test_jobs_are_taken_as_they_are_needed():
    taken = []

    def jobs():
        for job in range(100):
            taken.append(job)
            yield job

    with engine_of("local", 2) as engine:
        results = engine.run(Counting(), jobs())
        next(results)
        assert len(taken) <= 4


def test_threads_of_all_workers_together_are_the_limit_of_the_process(monkeypatch):
    monkeypatch.setattr("fastseg.engines.local.cores", lambda: 6)
    with engine_of("local", 3) as engine:
        assert {threads for _, _, threads in in_order(engine, Counting(), range(9))} == {"2"}


def test_the_job_of_a_killed_worker_is_given_to_another_one(tmp_path):
    with engine_of("local", 2) as engine:
        found = [value for value, _, _ in in_order(engine, Counting(5, tmp_path / "x"), range(12))]
    assert found == [2 * job for job in range(12)] and (tmp_path / "x").exists()


def test_a_job_that_kills_every_worker_ends_the_run_in_one_line():
    with refuses("worker-died"), engine_of("local", 2) as engine:
        list(engine.run(Counting(deadly=1), range(4)))


def test_errors_of_workers_are_raised_here():
    with refuses("wrong-job"), engine_of("local", 2) as engine:
        list(engine.run(Counting(wrong=2), range(4)))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"), engine_of("local", 2) as engine:
        list(engine.run(Counting(defect=2), range(4)))


def test_no_worker_is_left_behind():
    with engine_of("local", 2) as engine:
        pids = {pid for _, pid, _ in in_order(engine, Counting(), range(8))}
        stopped = engine.run(Counting(), range(8))
        pids.add(next(stopped)[1][1])
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_engines_that_cannot_be(monkeypatch):
    with refuses("unknown-engine", "dask", suggested=None):
        engine_of("dask")
    with refuses("unknown-engine", "--runtime"):
        engine_of("onnx")
    with refuses("option-range", 0):
        engine_of("local", 0)
    for options in ({"address": "auto"}, {"num_gpus": 1}):
        with refuses("engine-options", "--engine ray"):
            engine_of("local", **options)
    monkeypatch.setattr("fastseg.engines.ray.find_spec", lambda name: None)
    with refuses("no-ray", "fastseg[ray]"):
        engine_of("ray")

"""Freed memory is kept while a block runs, and given back after it."""

import resource
import sys

import pytest
import torch

from fastseg.utils.allocator import _glibc, freed_memory_kept

SIZE = 48 * 2**20  # bytes: more than glibc keeps by itself
PAGES = SIZE // resource.getpagesize()


NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE of Linux's prctl


@pytest.fixture(autouse=True)
def small_pages():
    """Let each page be counted: the system may provide 512 of them at once, as a huge one."""
    if _glibc():
        _glibc().prctl(NO_HUGE_PAGES, 1, 0, 0, 0)
    yield
    if _glibc():
        _glibc().prctl(NO_HUGE_PAGES, 0, 0, 0, 0)


def pages_of(times):
    """Return the pages that the system provided for writing a tensor of SIZE, so many times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_kept_in_the_block_alone():
    with freed_memory_kept():
        # at first, what is kept is too short by some bytes for the next one
        assert pages_of(40) < 20 * PAGES
    assert pages_of(1) > 0.9 * PAGES


def test_it_gives_memory_back_after_an_error():
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        pages_of(1)
        raise ValueError("inside")
    if _glibc():
        assert pages_of(1) > 0.9 * PAGES


def test_other_systems_run_the_block(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with freed_memory_kept():
        assert _glibc() is None

"""Freed memory is kept while a block runs, and given back after it."""

import resource
import sys

import pytest
import torch

from fastseg.utils.allocator import _glibc, freed_memory_kept

SIZE = 48 * 2**20  # bytes: more than glibc keeps by itself
PAGES = SIZE // resource.getpagesize()
# Of a tensor's pages, as much is new after the block at least: other free memory may hold the rest.
GIVEN_BACK = 0.2


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
    assert pages_of(1) > GIVEN_BACK * PAGES


def test_it_gives_memory_back_after_an_error():
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        pages_of(1)
        raise ValueError("inside")
    if _glibc():
        assert pages_of(1) > GIVEN_BACK * PAGES


def test_other_systems_run_the_block(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with freed_memory_kept():
        assert _glibc() is None

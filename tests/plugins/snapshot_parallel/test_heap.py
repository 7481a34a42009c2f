"""Freed memory that a process keeps, and gives back."""

import os
import resource
import subprocess
import sys

import pytest

from fulgurite.plugins.snapshot_parallel import heap

# In a process of its own, whose heap nobody else has shaped.
SCRIPT = """
import resource, sys
from pathlib import Path
from fulgurite.plugins.snapshot_parallel import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytearray(1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = heap.keep_freed()
bytearray(1 << 26)
while_kept, held = faults(), resident()
heap.give_back()
given = held - resident()
faults()
heap.keep_no_longer()
print(kept, while_kept, given, faults())
"""
linux = pytest.mark.skipif(heap._libc() is None, reason="needs glibc")


def measured(**environment):
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    return [eval(word) for word in output.split()]


@linux
def test_what_is_freed_is_used_again_until_it_is_given_back():
    kept, while_kept, given, afterwards = measured()
    pages = 5 * (1 << 26) // resource.getpagesize()
    assert kept
    assert while_kept < pages / 10
    assert given > 0.9 * (1 << 26)
    # With huge pages there are fewer than one a page.
    assert afterwards > 2 * while_kept


@linux
@pytest.mark.parametrize(
    "environment", [{"MALLOC_MMAP_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}]
)
def test_who_has_set_it_is_left_alone(environment):
    kept, while_kept, *_ = measured(**environment)
    assert not kept
    assert while_kept > 5


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_libc", lambda: None)
    assert not heap.keep_freed()
    heap.give_back()
    heap.keep_no_longer()

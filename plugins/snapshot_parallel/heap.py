"""The C library's heap while a training computes on the CPU: what is freed is kept for the next step.

glibc asks the system for every large block anew and hands it back when it is freed, and the system clears each page
when it is first written to. Whoever allocates the same gigabytes in every step pays for that each time: 40 % of a step
of CD-GCN on 10,000 vertices × 32 snapshots of 64 features, on a virtual machine.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
# Where the thresholds come to rest by themselves, and the number of mappings at first.
_USUAL = ((_TRIM_THRESHOLD, 64 << 20), (_MMAP_THRESHOLD, 32 << 20), (_MMAP_MAX, 65536))


def keep_freed() -> bool:
    """From now on keep freed memory in the process, until :func:`keep_no_longer`.

    Whoever has set glibc's own variables (``MALLOC_TRIM_THRESHOLD_`` and so on, or ``glibc.malloc`` in
    ``GLIBC_TUNABLES``) is left alone.

    Returns:
        Whether it is kept; only glibc can.
    """
    libc = _libc()
    if libc is None or _chosen_by_user():
        return False
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, _NEVER))


def keep_no_longer() -> None:
    """As it usually is, and what is kept goes back to the system."""
    libc = _libc()
    if libc is not None and not _chosen_by_user():
        for name, value in _USUAL:
            libc.mallopt(name, value)
    give_back()


def give_back() -> None:
    """Give the system what is free now, so that others can have it or count it as free."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def _chosen_by_user() -> bool:
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        f"MALLOC_{name}_" in os.environ for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "MMAP_MAX", "TOP_PAD")
    )


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        if "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"):  # type: ignore[operator]  # None is refused below
            return None
        return ctypes.CDLL(None)
    except (AttributeError, OSError, TypeError, ValueError):
        return None

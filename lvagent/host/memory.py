"""Memory that the C library keeps of what was freed (malloc(3), mallopt(3), malloc_trim(3)).

glibc gives freed memory back to the kernel only from the end of a heap, so one small block that lives on keeps all that
was freed before it. And it has up to eight heaps for each core, one for each thread that finds the others in use: each
grows to what the greediest of its threads once needed. Together that was twice as much again as was in use, and it
still grew after 600 VMs. Another C library has neither call, and is left as it is.
"""

from __future__ import annotations

import ctypes

HEAPS = 2
"""How many there are. Threads wait for Python's lock much more than for a heap's."""

_M_ARENA_MAX = -8  # malloc.h
_libc = ctypes.CDLL(None)


def share_heaps() -> None:
    """Have all threads share a few heaps; to be called before there are any."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, HEAPS)


def trim() -> None:
    """Give the kernel back what is free in the heaps, wherever it is; a millisecond."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))

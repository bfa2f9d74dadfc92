"""Loaded by an agent whose PYTHONPATH has this folder: counts what is allocated in it, for whoever asks on a socket.

Resident memory comes in pages and heaps; one object that is kept for each VM is seen in it after thousands of them. The
allocators know exactly.
"""

from __future__ import annotations

import _thread  # a thread that threading does not count: the agent makes sure that it begins alone
import ctypes
import gc
import json
import os
import socket
import sys

SOCKET = os.environ.get("LAB_ALLOCATED", "")
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` (mallinfo(3))."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def _allocated(libc: ctypes.CDLL) -> dict[str, int]:
    gc.collect()
    found = libc.mallinfo2()
    return {"blocks": sys.getallocatedblocks(), "heap_bytes": found.uordblks + found.hblkhd}


def _answer(listener: socket.socket) -> None:
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    while True:
        asker, _ = listener.accept()
        with asker:
            asker.sendall(json.dumps(_allocated(libc)).encode())


if SOCKET and "serve" in sys.orig_argv:
    _listener = socket.socket(socket.AF_UNIX)
    _listener.bind(SOCKET)
    _listener.listen()
    _thread.start_new_thread(_answer, (_listener,))

"""Network namespaces: entering them, and the descriptors made inside.

A thread's namespace is its own. ``inside`` runs a function in a thread made for it, which ends in the namespace it
entered; so no thread of the agent is ever left in the wrong one. Sockets stay in the namespace they were made in,
whichever thread uses them later.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(descriptor: int) -> None:
    """Put the calling thread into the network namespace of an open descriptor (setns(2))."""
    if _libc.setns(descriptor, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def inside(path: str, function: Callable[[], T]) -> T:
    """Call a function in the namespace named by ``path`` (such as /run/netns/vpc-aaaaaaaaaa; empty: where we are).

    :return: what the function returns.
    :raise OSError: there is no such namespace. Whatever the function raises comes through as it is.
    """
    if not path:
        return function()
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(descriptor)
            finally:
                os.close(descriptor)
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def inode(path: str) -> int | None:
    """The identity of the namespace behind a name (or a /proc/PID/ns/net), None if there is none."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None

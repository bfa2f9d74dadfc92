"""Unit tests are pure: what starts a program or opens a socket fails at once."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import NoReturn

import pytest

_PROGRAMS = ("system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve")


class Impure(BaseException):
    """Not an Exception: no code under test may catch it."""


def _no_program(*args: object, **kwargs: object) -> NoReturn:
    raise Impure("a unit test starts a program")


def _no_socket(*args: object, **kwargs: object) -> NoReturn:
    raise Impure("a unit test opens a socket")


@pytest.fixture(autouse=True)
def pure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse programs and sockets."""
    monkeypatch.setattr(subprocess.Popen, "__init__", _no_program)
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda self: None)
    for name in _PROGRAMS:
        monkeypatch.setattr(os, name, _no_program)
    monkeypatch.setattr(socket.socket, "__init__", _no_socket)
    for name in ("socketpair", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, _no_socket)

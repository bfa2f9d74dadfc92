"""The fixture that keeps unit tests pure does refuse."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest


@pytest.mark.parametrize(
    "impure",
    [
        lambda: subprocess.run(["true"], check=False),
        lambda: subprocess.check_output(["true"]),
        lambda: os.system("true"),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: socket.create_connection(("127.0.0.1", 1)),
        lambda: socket.socketpair(),
        lambda: socket.getaddrinfo("localhost", 1),
    ],
)
def test_refused(impure):
    with pytest.raises(BaseException, match=r"a unit test (starts a program|opens a socket)"):
        impure()

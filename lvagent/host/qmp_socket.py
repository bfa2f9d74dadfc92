"""QMP over a unix socket, for a qemu that libvirt does not have: the one command that asks its guest to shut down.

Whoever listens on a path may be anybody: it is asked only if the kernel says that it is the process that is meant
(SO_PEERCRED of unix(7)), and what it answers is read within bounds. Source: QEMU's qmp-spec.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import struct

log = logging.getLogger(__name__)

SECONDS = 2.0
LONGEST = 65_536


def powerdown(path: str, pid: int) -> bool:
    """Press the ACPI power button of a guest.

    :param path: of the socket.
    :param pid: who must listen on it.
    :return: whether qemu took the command.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(SECONDS)
            line.connect(path)
            if _listener(line) != pid:
                return False
            with line.makefile("rb") as answers:
                greeting = json.loads(answers.readline(LONGEST))
                if not isinstance(greeting, dict) or "QMP" not in greeting:
                    return False
                for command in ("qmp_capabilities", "system_powerdown"):
                    line.sendall(json.dumps({"execute": command}).encode() + b"\n")
                    if not _taken(answers):
                        return False
                return True
    except (OSError, ValueError, RecursionError) as error:  # an HMP monitor, or one that somebody else has
        log.debug("%s: no QMP: %s", path, error)
        return False


def _listener(line: socket.socket) -> int:
    """The pid of who listens."""
    raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])


def _taken(answers: io.BufferedReader) -> bool:
    """Whether the answer to a command is its return; events may come before it."""
    for _ in range(64):
        found = json.loads(answers.readline(LONGEST))
        if isinstance(found, dict) and ("return" in found or "error" in found):
            return "return" in found
    return False

"""What an agent of the lab has allocated, told by itself: see ``inside/sitecustomize.py``."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.commands import TREE
from tests.lab.host import LabHost

SOCKET = "/run/lab-allocated.sock"


@dataclass(frozen=True, slots=True)
class Allocated:
    """``blocks``: of Python's own allocator (512 bytes at most each); ``heap_bytes``: of the C library's, in use."""

    blocks: int
    heap_bytes: int


EXACT = "glibc.malloc.tcache_count=0"
"""glibc's setting that keeps threads from putting freed memory aside for themselves: it would count as in use."""


def environment() -> Mapping[str, str]:
    """The variables of an agent that can be asked."""
    path = f"{Path(__file__).parent / 'inside'}:{TREE}"
    return {"PYTHONPATH": path, "LAB_ALLOCATED": SOCKET, "GLIBC_TUNABLES": EXACT}


def allocated(lab: LabHost) -> Allocated:
    """What it has allocated now, after Python's garbage was collected."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(lab.path(SOCKET)))
        with line.makefile("rb") as answer:
            return Allocated(**json.loads(answer.read()))

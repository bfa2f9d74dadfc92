"""What the C library keeps of freed memory, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.lab.commands import TREE, tree_environment

pytestmark = pytest.mark.host

BEGIN = """
import ctypes, pathlib, re, threading
from lvagent.host import memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(re.findall(r"RssAnon:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[0])
"""

FREED = """
blocks = [libc.malloc(16_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 16_000)
full = resident()
for block in blocks[:-1]:
    libc.free(block)
freed = resident()
memory.trim()
print(full, freed, resident())
"""

THREADS = """
memory.share_heaps()
together = threading.Barrier(12)

def take():
    libc.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
out = libc.fopen(b"/proc/self/fd/1", b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fclose(ctypes.c_void_p(out))
"""


def python(text: str) -> str:
    command = [sys.executable, "-P", "-c", BEGIN + text]
    done = subprocess.run(command, env=tree_environment(), cwd=TREE, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_free_below_a_block_that_lives_on_is_given_back() -> None:
    full, freed, trimmed = map(int, python(FREED).split())
    assert freed > full - 1000, "the C library gives it back by itself"
    assert trimmed < full - 25_000


def test_threads_share_heaps() -> None:
    assert python(THREADS).count("<heap nr=") == 2
    assert python(THREADS.replace("memory.share_heaps()", "")).count("<heap nr=") > 2

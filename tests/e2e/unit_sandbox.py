"""Executes a command as the hardening of a unit would have it; run as a script: ``unit_sandbox.py UNIT COMMAND ...``.

What systemd does by seccomp(2) is done here by a filter of our own with the same meaning, for x86-64: forbidden calls,
families of sockets, kinds of namespaces, memory that can be written and executed. And the bounding set.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import sys
from pathlib import Path

from lvagent.host import privileges

CALLS_FILE = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

GROUPS = {
    "@clock": "adjtimex clock_adjtime clock_settime settimeofday",
    "@cpu-emulation": "modify_ldt",
    "@debug": "lookup_dcookie perf_event_open pidfd_getfd ptrace",
    "@keyring": "add_key keyctl request_key",
    "@obsolete": "_sysctl afs_syscall create_module get_kernel_syms getpmsg putpmsg query_module security sysfs tuxcall"
    " uselib ustat vserver",
    "@raw-io": "ioperm iopl",
    "@reboot": "kexec_file_load kexec_load reboot",
    "@swap": "swapoff swapon",
}
"""``systemd-analyze syscall-filter`` of systemd 252, without other machines' calls."""

NAMESPACES = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
WRITE, EXECUTE = 2, 4

LOAD, EQUAL, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, X86_64 = 0, 4, 0xC000003E


def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One instruction of a classic BPF program (linux/filter.h)."""
    return struct.pack("HBBI", code, yes, no, value)


def refuse(code: int) -> bytes:
    return step(RETURN, REFUSE | code)


def argument(number: int) -> bytes:
    return step(LOAD, 16 + 8 * number)


def when(number: int, *body: bytes) -> bytes:
    """The body if the call is this one; it ends the program."""
    return step(EQUAL, number, 0, len(body)) + b"".join(body)


def calls() -> dict[str, int]:
    found = re.findall(r"#define __NR_(\w+) (\d+)", CALLS_FILE.read_text())
    return {name: int(number) for name, number in found}


def settings(unit: Path) -> dict[str, list[str]]:
    rows = (row.split("=", 1) for row in unit.read_text().splitlines() if re.match(r"[A-Za-z]+=", row))
    return {name: value.split() for name, value in rows}


def forbidden(words: list[str]) -> list[str]:
    """The calls of a ``SystemCallFilter=~...``."""
    assert words[0].startswith("~")
    words = [words[0][1:], *words[1:]]
    return [name for word in words for name in (GROUPS[word].split() if word.startswith("@") else [word])]


def program(unit: dict[str, list[str]]) -> bytes:
    """The filter of a unit."""
    number = calls()
    kinds = sum(flag for name, flag in NAMESPACES.items() if name not in unit["RestrictNamespaces"])
    kinds_only = (step(ANY_BIT, kinds, 0, 1), refuse(errno.EPERM), step(RETURN, ALLOW))
    families = [int(getattr(socket, name)) for name in unit["RestrictAddressFamilies"]]
    known = [step(EQUAL, family, len(families) - place, 0) for place, family in enumerate(families)]
    writable = (
        step(AND, WRITE | EXECUTE),
        step(EQUAL, WRITE | EXECUTE, 0, 1),
        refuse(errno.EPERM),
        step(RETURN, ALLOW),
    )
    executable = (step(ANY_BIT, EXECUTE, 0, 1), refuse(errno.EPERM), step(RETURN, ALLOW))
    parts = [
        step(LOAD, ARCHITECTURE), step(EQUAL, X86_64, 1, 0), refuse(errno.EPERM), step(LOAD, NUMBER),
        *(when(number[name], refuse(errno.EPERM)) for name in forbidden(unit["SystemCallFilter"])),
        when(number["clone3"], refuse(errno.ENOSYS)),
        when(number["clone"], argument(0), *kinds_only),
        when(number["unshare"], argument(0), *kinds_only),
        when(number["setns"], argument(1), step(EQUAL, 0, 0, 1), refuse(errno.EPERM), *kinds_only),
        when(number["socket"], argument(0), *known, refuse(errno.EAFNOSUPPORT), step(RETURN, ALLOW)),
        when(number["mmap"], argument(2), *writable),
        when(number["mprotect"], argument(2), *executable),
        when(number["pkey_mprotect"], argument(2), *executable),
        step(RETURN, ALLOW),
    ]  # fmt: skip
    return b"".join(parts)


def install(raw: bytes) -> None:
    """Put the filter around this process and all it executes (seccomp(2), SECCOMP_SET_MODE_FILTER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.create_string_buffer(raw, len(raw))
    header = struct.pack("HxxxxxxQ", len(raw) // 8, ctypes.addressof(text))
    privileges.no_new_privileges()
    privileges.check(libc.syscall(317, 1, 0, ctypes.c_char_p(header)), "seccomp")


def main(unit: str, *command: str) -> None:
    """Become the command."""
    found = settings(Path(unit))
    os.umask(int(found["UMask"][0], 8))
    privileges.bound([name.removeprefix("CAP_").lower() for name in found["CapabilityBoundingSet"]])
    install(program(found))
    os.execv(command[0], list(command))


if __name__ == "__main__":
    main(*sys.argv[1:])

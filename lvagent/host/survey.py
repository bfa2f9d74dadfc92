"""Facts of this host, for the doctor: gathered without changing anything, judged elsewhere.

What the kernel can do is tried, in a namespace that nobody else sees and that ends with the attempt.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import platform
import pwd
import resource
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lvagent.config import FilterSettings
from lvagent.errors import LvagentError
from lvagent.host import beneath, daemons, kernel_filter, netns, sysctl
from lvagent.host.entrance import Entrance
from lvagent.host.netspace import Netspace, translated
from lvagent.host.processes import apart, began_at, parse_stat
from lvagent.host.run import run

TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What has a name: ``kind`` (absent, file, folder, link, other), permission bits, owner, and change time (Unix)."""

    kind: str
    mode: int = 0
    uid: int = 0
    changed: float = 0.0


@dataclass(frozen=True, slots=True)
class Space:
    """Room in a file system: bytes and inodes, free and all."""

    free: int
    size: int
    inodes_free: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process by the name of its program. ``started``: Unix time."""

    name: str
    pid: int
    started: float


def file_facts(path: str | Path) -> FileFacts:
    """What has this name; a link is not followed."""
    try:
        found = os.lstat(path)
    except OSError:
        return FileFacts("absent")
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))
    kind = next((name for test, name in kinds if test(found.st_mode)), "other")
    return FileFacts(kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_ctime)


def text_of(path: str | Path) -> str | None:
    """The text of a small file, None if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def space(path: str) -> Space | None:
    """Room in the file system of a folder; None if it is not there."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    unit = found.f_frsize
    return Space(found.f_bavail * unit, found.f_blocks * unit, found.f_favail, found.f_files)


def processes(programs: Iterable[str]) -> tuple[Daemon, ...]:
    """The processes of this host that run one of these programs, by pid; those in containers see to other links."""
    wanted = frozenset(programs)
    found = []
    for pid in sorted(daemons.pids()):
        with contextlib.suppress(OSError):
            name = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
            if (name in wanted or _comm(pid) in wanted) and not apart(pid):
                found.append(Daemon(name if name in wanted else _comm(pid), pid, started(pid)))
    return tuple(found)


def _comm(pid: int) -> str:
    return (text_of(f"/proc/{pid}/comm") or "").strip()


def started(pid: int) -> float:
    """When a process began (Unix time), 0 if it is gone."""
    text = text_of(f"/proc/{pid}/stat") or ""
    return began_at(parse_stat(text)) if text else 0.0


def open_files() -> int:
    """How many files the agent may have open: it raises its limit to the hard one, which this process has too."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def kernel() -> str:
    """The release of the running kernel."""
    return platform.release()


PROBING = "tc ingress, u32, mirred: by these explain --live sends"
"""The one feature without which only an answer is missing."""


def features(limits: FilterSettings) -> dict[str, str]:
    """What the kernel must be able to do; empty: it can, else why not."""
    tries: dict[str, Callable[[], object]] = {
        "network namespaces": lambda: netns.scratch(lambda: None),
        "nf_tables, with all that a VPC's filter uses": lambda: kernel_filter.check(limits),
        "veth": lambda: _link("veth", "peer", "name", "lvdoctor1"),
        "bridge": lambda: _link("bridge"),
        "vxlan": lambda: _link("vxlan", "id", "1", "dstport", "4789"),
        "tun": lambda: os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)),
        "openat2": _openat2,
        "pidfd": lambda: os.close(os.pidfd_open(os.getpid())),
        PROBING: lambda: netns.scratch(_entrance),
    }
    return {name: _refusal(attempt) for name, attempt in tries.items()}


def _refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except LvagentError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _link(kind: str, *more: str) -> None:
    netns.scratch(lambda: run(["ip", "link", "add", "lvdoctor0", "type", kind, *more]))


def _entrance() -> None:
    with translated("a way in", "make"):
        run(["ip", "link", "add", "lvdoctor0", "type", "bridge"])
        space = Netspace("")
        try:
            Entrance(space, space.find(["lvdoctor0"])["lvdoctor0"]).close()
        finally:
            space.close()


def _openat2() -> None:
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(beneath.open_beneath(folder, "proc", os.O_PATH))
    finally:
        os.close(folder)


def bridge_calls() -> dict[str, int]:
    """bridge-nf-call-* of the calling thread's namespace, without the common beginning; empty without br_netfilter."""
    found = {}
    for name in sysctl.CALLS:
        text = text_of(sysctl.ROOT / name)
        if text is not None:
            found[name.removeprefix("bridge/bridge-nf-call-")] = int(text)
    return found


def wrong_sysctls(path: str, wanted: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """The sysctls of a namespace that are not as wanted: what they are ('' if they are not there), and should be.

    :param path: the name of the namespace.
    :raise OSError: there is no such namespace.
    """

    def compare() -> dict[str, tuple[str, int]]:
        there = {name: (text_of(sysctl.ROOT / name) or "").strip() for name in wanted}
        return {name: (there[name], value) for name, value in wanted.items() if there[name] != str(value)}

    return netns.inside(path, compare)


def accounts(users: Iterable[str], groups: Iterable[str]) -> dict[str, bool]:
    """Whether these users, and ``group NAME``, exist."""
    found = {name: _known(pwd.getpwnam, name) for name in users}
    return found | {f"group {name}": _known(grp.getgrnam, name) for name in groups}


def _known(look: Callable[[str], object], name: str) -> bool:
    try:
        look(name)
    except KeyError:
        return False
    return True


def programs(wanted: Iterable[str]) -> dict[str, str]:
    """Where these programs are; empty: nowhere on the PATH that the agent uses."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return {name: shutil.which(name, path=path) or "" for name in wanted}


def first_line(argv: list[str]) -> str:
    """The first line that a command prints; '' if it cannot be run."""
    try:
        return run(argv, timeout=10).partition("\n")[0]
    except LvagentError:
        return ""


def confinement() -> str:
    """Which security module confines programs here, in one line."""
    if (text_of("/sys/module/apparmor/parameters/enabled") or "").startswith("Y"):
        return "AppArmor is on"
    enforcing = text_of("/sys/fs/selinux/enforce")
    if enforcing is not None:
        return "SELinux enforces" if enforcing.strip() == "1" else "SELinux is on and only warns"
    return "neither AppArmor nor SELinux"


def clock_synchronised() -> bool:
    """Whether the kernel's clock is kept right by somebody (adjtimex(2), asked without changing anything)."""
    asked = ctypes.create_string_buffer(512)  # struct timex, larger than on any machine; modes 0
    return ctypes.CDLL(None, use_errno=True).adjtimex(asked) not in (TIME_ERROR, -1)

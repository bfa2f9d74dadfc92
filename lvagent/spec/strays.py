"""qemu processes and objects of the host that nobody wants: what is told of them, and how processes are sorted.

Pure: ``host.processes`` reads what there is, ``agent.strays`` acts.

A process is believed to be a qemu by the file that it executes, never by its command line, which it writes itself.
Whose it is may be said by that line all the same: a process that says it is somebody's domain is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lvagent.spec import names


class Sort(StrEnum):
    """Whose a qemu process is."""

    KNOWN = "known"
    LOST = "lost"
    STRANGER = "stranger"
    NOBODY = "nobody"


STRAYS = (Sort.LOST, Sort.NOBODY)
"""What is a stray. The others are never touched."""


@dataclass(frozen=True, slots=True)
class Process:
    """A qemu process as /proc has it (proc(5)).

    ``identity``: boot-relative start time in clock ticks; with the pid it is unique. ``state``: the letter of its state
    (``Z``: a zombie). ``age``: seconds. ``arguments``: as given, with secrets in them. ``sockets``: paths of unix
    sockets that it listens on. ``disks``: files that it holds open. ``taps``: network devices that it holds open.
    ``apart``: it is in a pid namespace of its own.
    """

    pid: int
    identity: str
    state: str
    program: str
    age: float
    uid: int
    parent: int
    parent_name: str
    arguments: tuple[str, ...] = ()
    cgroup: str = ""
    sockets: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    apart: bool = False

    @property
    def zombie(self) -> bool:
        """Whether it has ended, and its parent has not asked for its exit code yet."""
        return self.state == "Z"


@dataclass(frozen=True, slots=True)
class Running:
    """A domain of the host's libvirt. ``pid``: of its qemu, None if it has none; ``ours``: whether it is ours."""

    name: str
    uuid: str
    pid: int | None
    ours: bool


@dataclass(frozen=True, slots=True)
class Sorted:
    """A process, whose it is, and why that is believed."""

    process: Process
    sort: Sort
    why: str


@dataclass(frozen=True, slots=True)
class StrayView:
    """A stray as it is told of. ``arguments`` without secrets; ``sweeps``: in how many it was seen."""

    pid: int
    identity: str
    sort: Sort
    why: str
    state: str
    program: str
    age: float
    uid: int
    parent: int
    parent_name: str
    arguments: tuple[str, ...]
    sockets: tuple[str, ...]
    disks: tuple[str, ...]
    taps: tuple[str, ...]
    sweeps: int


@dataclass(frozen=True, slots=True)
class LooseObject:
    """An object of the host that bears our mark and that nobody wants. ``why`` also says what becomes of it."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class StraysView:
    """All strays. ``policy``: report or stop; ``grace``: sweeps after which a stray is stopped."""

    policy: str
    grace: int
    processes: tuple[StrayView, ...]
    objects: tuple[LooseObject, ...]


@dataclass(frozen=True, slots=True)
class SweepView:
    """What came of a sweep. ``held``: why nothing was removed; empty if it was, or there was nothing."""

    held: str


# sorting


def sort_process(process: Process, domains: Iterable[Running]) -> Sorted:
    """Whose a process is, by what libvirt says first, and by what the process says of itself after that.

    :param domains: all that the host's libvirt has, strangers' too.
    """
    there = list(domains)
    for domain in there:
        if domain.pid == process.pid:
            return Sorted(process, *_of_domain(domain, f"libvirt runs {domain.name} as this process"))
    if process.apart:
        return Sorted(process, Sort.STRANGER, "it is in a container (a pid namespace of its own)")
    if process.zombie:
        parent = f"{process.parent_name} ({process.parent})"
        return Sorted(process, Sort.NOBODY, f"a zombie: it has ended, and its parent {parent} has not taken note")
    return Sorted(process, *_by_marks(process, there))


def _of_domain(domain: Running, why: str) -> tuple[Sort, str]:
    return (Sort.KNOWN if domain.ours else Sort.STRANGER), why


def _by_marks(process: Process, domains: Sequence[Running]) -> tuple[Sort, str]:
    name, uuid = guest_name(process.arguments) or cgroup_name(process.cgroup), _uuid(process.arguments)
    for domain in domains:
        if (name and domain.name == name) or (uuid and domain.uuid == uuid):
            if domain.pid is None or not domain.ours:
                return _of_domain(domain, f"it has the name or UUID of {domain.name}")
            return Sort.LOST, f"libvirt runs {domain.name} as {domain.pid}: this one is left over"
    taps = [tap for tap in process.taps if names.tap_owner(tap)]
    if names.VM_ID.match(name) or taps:
        return Sort.LOST, f"it bears the mark of a VM of ours ({name or taps[0]}) that libvirt does not run"
    if _of_libvirt(process):
        return Sort.STRANGER, f"another libvirt's, or a domain that libvirt has lost ({name or 'no name'})"
    return Sort.NOBODY, "libvirt does not know it, and it bears no mark of a domain"


def guest_name(arguments: Sequence[str]) -> str:
    """The guest's name in qemu's arguments (``-name guest=NAME,...`` or ``-name NAME``); empty if there is none."""
    value = _value(arguments, "-name")
    for part in value.split(","):
        if part.startswith("guest="):
            return part.removeprefix("guest=")
    first = value.split(",", 1)[0]
    return "" if "=" in first else first


def cgroup_name(cgroup: str) -> str:
    """The domain that libvirt made a control group for; empty if it is none of libvirt's (libvirt's cgroups page)."""
    found = re.search(r"/machine-qemu\\x2d[0-9]+\\x2d(?P<name>[^/]+)\.scope(?:/|\Z)", cgroup)
    found = found or re.search(r"/qemu-[0-9]+-(?P<name>[^/]+)\.libvirt-qemu(?:/|\Z)", cgroup)
    return found["name"].replace("\\x2d", "-") if found else ""


def _uuid(arguments: Sequence[str]) -> str:
    return _value(arguments, "-uuid").lower()


def _of_libvirt(process: Process) -> bool:
    """Whether a process was started by some libvirt: by its control group, or by what only libvirt writes."""
    line = " ".join(process.arguments)
    pid_file = _value(process.arguments, "-pidfile")
    probe = pid_file.endswith("/qmp.pid") and "/libvirt/qemu/" in pid_file
    return bool(cgroup_name(process.cgroup)) or probe or "guest=" in line or "masterKey0" in line


def _value(arguments: Sequence[str], option: str) -> str:
    """The value after the last ``option`` (qemu knows it with one dash and with two)."""
    found = ""
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        if word in (option, f"-{option}"):
            found = following
    return found


# monitors


def monitors(process: Process) -> tuple[str, ...]:
    """Paths of unix sockets on which this process may answer QMP: its arguments say so, or libvirt named them.

    Only those that it has; sockets of consoles are not among them.
    """
    pairs = list(zip(process.arguments, process.arguments[1:], strict=False))
    used = [word for option, word in pairs if option.replace("--", "-", 1) == "-mon"]
    words = [word for option, word in pairs if option.replace("--", "-", 1) in ("-qmp", "-qmp-pretty")]
    for option, word in pairs:
        ident = re.search(r"(?:^|,)id=([^,]+)", word)
        if option.replace("--", "-", 1) == "-chardev" and ident and any(ident[1] in one for one in used):
            words.append(word)
    return tuple(
        path for path in process.sockets if path.endswith("/monitor.sock") or any(path in word for word in words)
    )


# secrets

_KEYS = r"[\w.-]*(?:pass|secret|token|psk|key|credential)[\w.-]*|data|string|value|serial|text"
_PAIR = re.compile(rf"(?i)(?<![\w.-])({_KEYS})=(?:[^,]|,,)*")
_JSON_PAIR = re.compile(rf"""(?i)("(?:{_KEYS})"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\Z)""")
_USER = re.compile(r"(?<=//)[^/@\s,]+@")
_BEGUN_USER = re.compile(r"(?<=//)[^/@\s,]+\Z")
_WHOLE = ("-append", "-fw_cfg", "-smbios")
MOST_ARGUMENTS = 256
LONGEST_ARGUMENT = 1024
CUT = "..."


def without_secrets(arguments: Sequence[str]) -> tuple[str, ...]:
    """Arguments as they may be shown: what could be a secret is cut out, and what is too long or too many.

    Not only what qemu calls a secret: also what people put into kernel command lines and firmware tables.
    """
    shown = []
    for before, word in zip(("", *arguments), arguments[:MOST_ARGUMENTS], strict=False):
        if before.replace("--", "-", 1) in _WHOLE:
            shown.append(CUT)
            continue
        shown.append(_without_secrets(word))
    return (*shown, CUT) if len(arguments) > MOST_ARGUMENTS else tuple(shown)


def _without_secrets(word: str) -> str:
    """One argument. It is cut first: what somebody else wrote must not be long work."""
    short = word[:LONGEST_ARGUMENT]
    short = _PAIR.sub(rf"\1={CUT}", short)
    short = _JSON_PAIR.sub(rf'\1"{CUT}"', short)
    short = _USER.sub(f"{CUT}@", short)
    return short if len(word) <= LONGEST_ARGUMENT else _BEGUN_USER.sub("", short) + CUT


def view(found: Sorted, sweeps: int) -> StrayView:
    """A sorted process as it may be told of."""
    one = found.process
    return StrayView(
        pid=one.pid,
        identity=one.identity,
        sort=found.sort,
        why=found.why,
        state="zombie" if one.zombie else "stopped" if one.state in "Tt" else "running",
        program=one.program,
        age=round(one.age, 1),
        uid=one.uid,
        parent=one.parent,
        parent_name=one.parent_name,
        arguments=without_secrets(one.arguments),
        sockets=one.sockets,
        disks=one.disks,
        taps=one.taps,
        sweeps=sweeps,
    )

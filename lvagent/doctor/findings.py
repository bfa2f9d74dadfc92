"""What the doctor says: findings, their order and the exit code. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is; UNKNOWN: it could not be looked at."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


class Kind(StrEnum):
    """How a finding can be repaired without touching anything that is not ours."""

    SWEEP = "sweep"
    LINK = "remove-link"
    SYSCTL = "set-sysctl"
    LEASES = "restart-dnsmasq"
    PORT = "plug-port"
    FOLDER = "mend-folder"
    HOOK = "install-hook"


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair of something of ours. ``target``: its name; ``owner``: the VPC or namespace that it is in, if any;
    ``value``: what it is to be, where that is a number (a mode, a sysctl)."""

    kind: Kind
    target: str = ""
    owner: str = ""
    value: int = 0

    def __str__(self) -> str:
        match self.kind:
            case Kind.SWEEP:
                return "sweep: make what is missing, take away what of ours nobody wants"
            case Kind.LINK:
                return f"delete the link {self.target} in {self.owner or 'the root namespace'}"
            case Kind.SYSCTL:
                return f"set net/{self.target} to {self.value} in {self.owner}"
            case Kind.LEASES:
                return f"restart the dnsmasq of {self.target}"
            case Kind.PORT:
                return f"tell the bridge again that {self.owner} is at the port {self.target}"
            case Kind.FOLDER:
                return f"make {self.target} a folder of root with mode {self.value:04o}"
            case Kind.HOOK:
                return f"write {self.target}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``subject``: what was looked at; ``text``: how it is; ``remedy``: what a person does about it;
    ``repair``: what ``--fix`` does, if the thing is ours."""

    level: Level
    subject: str
    text: str
    remedy: str = ""
    repair: Repair | None = None


def passed(subject: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.PASS, subject, text)


def warned(subject: str, text: str, remedy: str = "", repair: Repair | None = None) -> Finding:
    """It works, and somebody should know."""
    return Finding(Level.WARN, subject, text, remedy, repair)


def failed(subject: str, text: str, remedy: str = "", repair: Repair | None = None) -> Finding:
    """It does not work, or will not."""
    return Finding(Level.FAIL, subject, text, remedy, repair)


def unknown(subject: str, text: str, remedy: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(Level.UNKNOWN, subject, text, remedy)


def repairs(found: Iterable[Finding]) -> tuple[Repair, ...]:
    """What ``--fix`` would do: each repair once, the sweep last, for it may build on the others."""
    wanted = dict.fromkeys(finding.repair for finding in found if finding.repair is not None)
    return tuple(sorted(wanted, key=lambda repair: repair.kind is Kind.SWEEP))


def exit_code(found: Iterable[Finding]) -> int:
    """0: nothing but PASS and WARN; 1: something is wrong; 2: nothing is, but not all could be looked at."""
    levels = {finding.level for finding in found}
    if Level.FAIL in levels:
        return 1
    return 2 if Level.UNKNOWN in levels else 0

"""Commands for qemu's monitors: what a caller sends, and which commands only look.

QMP (qemu-qmp-ref(7)) and HMP can do anything that qemu can: write files as qemu's user, migrate the guest away, connect
to addresses. So any command is for admins; others have a list of commands that change nothing, and whose answers have
no secret and no content of a file. Of QMP those are taken without arguments, of HMP word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lvagent.errors import SpecError

MAX_COMMAND = 4096
"""Characters of an HMP command."""

MAX_NAME = 128
"""Characters of the name of a QMP command."""

READING_QMP = frozenset(
    {
        "query-balloon",
        "query-block",
        "query-block-jobs",
        "query-blockstats",
        "query-chardev",
        "query-cpus-fast",
        "query-current-machine",
        "query-iothreads",
        "query-jobs",
        "query-kvm",
        "query-memory-devices",
        "query-memory-size-summary",
        "query-name",
        "query-pci",
        "query-rx-filter",
        "query-status",
        "query-target",
        "query-uuid",
        "query-version",
    }
)
"""QMP commands that only look. Left out: displays (their clients), migration (its credentials' names), the command line
and objects (secrets' names), tracing, and whatever takes a path."""

READING_HMP = frozenset(
    f"info {what}"
    for what in (
        "balloon",
        "block",
        "block-jobs",
        "blockstats",
        "chardev",
        "cpus",
        "iothreads",
        "kvm",
        "memory-devices",
        "memory_size_summary",
        "name",
        "network",
        "pci",
        "status",
        "uuid",
        "version",
    )
)
"""HMP commands that only look; these texts and no others."""


@dataclass(frozen=True, slots=True)
class Qmp:
    """A QMP command. ``arguments`` None: it has none."""

    execute: str
    arguments: Mapping[str, object] | None = field(default=None, repr=False)

    @property
    def reads(self) -> bool:
        """Whether it only looks."""
        return self.execute in READING_QMP and not self.arguments


@dataclass(frozen=True, slots=True)
class Hmp:
    """An HMP command."""

    command: str

    @property
    def reads(self) -> bool:
        """Whether it only looks."""
        return self.command in READING_HMP

    @property
    def name(self) -> str:
        """What may be written down of it: without arguments, unless it only looks."""
        return self.command if self.reads else self.command.split(maxsplit=1)[0][:MAX_NAME]


def parse_qmp(document: object) -> Qmp:
    """A QMP command: ``{"execute": "query-status", "arguments": {}}``.

    :param document: what ``spec.json.load`` returns.
    :raise SpecError: it is none.
    """
    members = _members(document, "execute", "arguments")
    execute, arguments = members.get("execute"), members.get("arguments")
    if not isinstance(execute, str) or not 0 < len(execute) <= MAX_NAME or not _plain(execute) or " " in execute:
        raise SpecError("execute", "must be the name of a QMP command", "query-status")
    if arguments is not None and not isinstance(arguments, dict):
        raise SpecError("arguments", "must be an object", "leave it out if the command has none")
    return Qmp(execute, arguments)


def parse_hmp(document: object) -> Hmp:
    """An HMP command: ``{"command": "info status"}``.

    :param document: what ``spec.json.load`` returns.
    :raise SpecError: it is none.
    """
    command = _members(document, "command").get("command")
    if not isinstance(command, str) or not command.strip() or len(command) > MAX_COMMAND or not _plain(command):
        raise SpecError("command", "must be an HMP command on one line", "info status")
    return Hmp(command)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _members(document: object, *known: str) -> Mapping[str, object]:
    if not isinstance(document, dict):
        raise SpecError("", "must be an object", f"with {', '.join(known)}")
    for key in document:
        if key not in known:
            raise SpecError(str(key)[:60], "there is no such member", f"it has {', '.join(known)}")
    return document

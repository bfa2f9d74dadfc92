"""All that exists in a lab host as one value, so that "as it was before" is an equality.

What changes by itself is left out: counters, interface indexes, pids, lifetimes.

The first ``ip netns add`` of a host makes /run/netns a mount, and a mount it stays: take the first snapshot after it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.host import LabHost

FOLDERS = ("/var/lib/lvagent/volumes", "/var/lib/lvagent/vpcs", "/run/lvagent", "/run/netns", "/var/lib/libvirt/qemu")
LINK = ("ifname", "address", "mtu", "master", "group", "ifalias", "link_type", "operstate")
LINK_FLAGS = ("UP", "LOWER_UP")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Each field is sorted. All about networks begins with the namespace, "" for root."""

    namespaces: tuple[str, ...]
    links: tuple[str, ...]
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    rulesets: tuple[tuple[str, str], ...]
    mounts: tuple[str, ...]
    processes: tuple[str, ...]
    domains: tuple[str, ...]
    secrets: tuple[str, ...]
    files: tuple[str, ...]

    def difference(self, later: Snapshot) -> dict[str, dict[str, list[str]]]:
        """What a later snapshot lacks and has more, by field; empty when they are equal."""
        found = {}
        for field in dataclasses.fields(self):
            mine, other = (list(map(str, getattr(one, field.name))) for one in (self, later))
            gone, new = _minus(mine, other), _minus(other, mine)
            if gone or new:
                found[field.name] = {"gone": gone, "new": new}
        return found


def _minus(left: list[str], right: list[str]) -> list[str]:
    rest = list(right)
    return [one for one in left if one not in rest or rest.remove(one)]  # type: ignore[func-returns-value]


def take(lab: LabHost) -> Snapshot:
    """Look at everything; some 20 ms for each network namespace."""
    names = tuple(lab.namespaces())
    spaces = ("", *names)
    libvirt = lab.path("/run/libvirt/libvirt-sock").exists()
    return Snapshot(
        namespaces=names,
        links=_sorted(line for space in spaces for line in _links(lab, space)),
        addresses=_sorted(line for space in spaces for line in _addresses(lab, space)),
        routes=_sorted(line for space in spaces for line in _routes(lab, space)),
        rulesets=tuple((space, lab.run(["nft", "-s", "list", "ruleset"], netns=space).stdout) for space in spaces),
        mounts=_sorted(lab.path("/proc/1/mounts").read_text().splitlines()),
        processes=_sorted(_processes(lab)),
        domains=_sorted(_virsh_lines(lab, "list", "--all")) if libvirt else (),
        secrets=_sorted(_virsh_lines(lab, "secret-list")) if libvirt else (),
        files=_sorted(name for folder in FOLDERS for name in _files(lab.path(folder), folder)),
    )


def _sorted(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(lines))


def _ip(lab: LabHost, space: str, *args: str) -> list[dict[str, Any]]:
    where = ["-n", space] if space else []
    found: list[dict[str, Any]] = json.loads(lab.run(["ip", *where, "-j", "-d", *args]).stdout or "[]")
    return [one for one in found if one]


def _links(lab: LabHost, space: str) -> Iterator[str]:
    for link in _ip(lab, space, "link"):
        values = {name: link[name] for name in LINK if name in link}
        flags = [flag for flag in LINK_FLAGS if flag in link["flags"]]
        kind = link.get("linkinfo", {}).get("info_kind", "")
        yield f"{space} {link['ifname']} {kind} {json.dumps(values, sort_keys=True)} {flags}"


def _addresses(lab: LabHost, space: str) -> Iterator[str]:
    for link in _ip(lab, space, "addr"):
        for address in link["addr_info"]:
            yield f"{space} {link['ifname']} {address['local']}/{address['prefixlen']}"


def _routes(lab: LabHost, space: str) -> Iterator[str]:
    for family in ("-4", "-6"):
        for route in _ip(lab, space, family, "route", "show", "table", "all"):
            words = [str(route.get(key, "")) for key in ("type", "dst", "gateway", "dev")]
            yield " ".join([space, family, *words])


def _processes(lab: LabHost) -> Iterator[str]:
    for entry in os.listdir(lab.path("/proc")):
        if entry.isdigit():
            try:
                text = lab.path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if text:
                yield text.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def _virsh_lines(lab: LabHost, *args: str) -> Iterator[str]:
    """Lines of a table of virsh without the number of a running domain."""
    for line in lab.virsh(*args).stdout.splitlines():
        words = line.split()
        if words:
            yield " ".join(words[1:] if args[0] == "list" else words)


def _files(folder: Path, inside: str) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield f"{inside}{here.removeprefix(str(folder))}/{name}"

"""All of a host that must be the same after a fault: the lab's snapshot, what libvirt keeps of each VM, what is served,
and what the API tells.

What differs from one run of the same guest to the next (numbers of domains and descriptors, times, pids) is left out,
as is the route that a bridge has only while, or after, something was plugged into it. So are the numbers that the
filter gives VMs at random, the order they bring, and what packets put into its sets.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lvagent.render.elements import RECEIVED
from tests.lab.host import LabHost
from tests.lab.snapshot import Snapshot

VOLATILE = ("timings", "pid", "process", "observed_at", "changed_at", "revision", "error", "reason", "stale")
"""What the API tells of a VM and two equal VMs may differ in."""

FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.accept_redirects")

_NUMBERS = (
    (re.compile(r"domain-\d+-"), "domain-N-"),
    (re.compile(r"\b(fd|fds|vhostfd|fdset|set)=[\d:]+"), r"\1=N"),
    (re.compile(r'"fd":"\d+"'), '"fd":"N"'),
    (re.compile(r"/dev/fdset/\d+"), "/dev/fdset/N"),
    (re.compile(r"/dev/pts/\d+"), "/dev/pts/N"),
)
_ELEMENT = re.compile(r""" (created|boot_id|boot-id|revision)=(["'])[^"']*\2""")

_MARK = re.compile(r'(0x[0-9a-f]{8}) comment "(i-\d{10})"')
_TIMED = re.compile(r"(flags [^\n]*\b(?:dynamic|timeout)\b[^{}]*?)\s*elements = \{[^{}]*\}")
_ELEMENTS = re.compile(r"elements = \{([^{}]*)\}")
_SPLIT = re.compile(r",\s+")
_BLANKS = re.compile(r">\s+<")
SHOWN = 600
"""Characters of each difference that a failure shows."""


@dataclass(frozen=True, slots=True)
class State:
    """A host as one value."""

    host: Snapshot
    wishes: tuple[str, ...]
    served: tuple[str, ...]
    consoles: tuple[str, ...]
    told: tuple[str, ...]
    forwards: str = ""

    def difference(self, other: State) -> dict[str, object]:
        """What the other lacks and has more; empty when they are equal."""
        found: dict[str, object] = dict(self.host.difference(other.host))
        if self.forwards != other.forwards:
            found["forwards"] = {"gone": [self.forwards], "new": [other.forwards]}
        for name in ("wishes", "served", "consoles", "told"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found[name] = {"gone": sorted(set(mine) - set(theirs)), "new": sorted(set(theirs) - set(mine))}
        return found

    def told_apart(self, other: State) -> str:
        """The difference as text, of bounded length."""
        return "\n".join(f"{name}: {str(value)[:SHOWN]}" for name, value in self.difference(other).items())


def look(lab: LabHost) -> State:
    """Look at everything."""
    return State(
        host=_snapshot(lab),
        wishes=tuple(_wish(lab, vm) for vm in sorted(lab.virsh("list", "--all", "--name").stdout.split())),
        served=tuple(sorted(_served(lab.path("/run/lvagent/dnsmasq")))),
        consoles=tuple(sorted(one.name for one in lab.path("/var/log/libvirt/qemu").glob("*-console.log"))),
        told=(
            *(_told(one) for one in lab.api("GET", "/v1/vms").json["items"]),
            *(json.dumps(one, sort_keys=True) for one in lab.api("GET", "/v1/vpcs").json["items"]),
        ),
        forwards=lab.run(["sysctl", "-n", *FORWARDING]).stdout + lab.run(["ip", "neigh", "show", "proxy"]).stdout,
    )


def _snapshot(lab: LabHost) -> Snapshot:
    found = lab.snapshot()
    return dataclasses.replace(
        found,
        processes=_plain(line.split(" --")[0] if "lvagent.metadata" in line else line for line in found.processes),
        secrets=tuple(sorted(_secret(lab, *line.split()) for line in found.secrets)),
        files=_plain(name for name in found.files if "/failpoints" not in name),
        mounts=_plain(found.mounts),
        rulesets=tuple((space, _ruleset(text)) for space, text in found.rulesets),
        routes=tuple(route for route in found.routes if " multicast ff00::/8 " not in route),
    )


def _ruleset(text: str) -> str:
    """Tables, chains and sets in their order, VMs by their names; the elements of a set sorted."""
    text = _TIMED.sub(r"\1", text)
    for number, vm in set(_MARK.findall(text)):
        text = text.replace(number, f"{vm} {'receives' if int(number, 16) & RECEIVED else 'sends'}")
    return _ELEMENTS.sub(lambda found: "elements = " + " ".join(sorted(_SPLIT.split(found[1].strip()))), text)


def _secret(lab: LabHost, uuid: str, *words: str) -> str:
    """Whose it is, and its value; libvirt chooses its uuid."""
    return " ".join([*words, lab.virsh("secret-get-value", uuid).stdout.strip()])


def _plain(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(map(_without_numbers, lines)))


def _without_numbers(text: str) -> str:
    if "lvagent.metadata" in text:
        return "the metadata service"
    for pattern, instead in _NUMBERS:
        text = pattern.sub(instead, text)
    return text


def _wish(lab: LabHost, vm: str) -> str:
    """A domain's config, with its element, and whether that has the mark ``created``."""
    xml = lab.virsh("dumpxml", "--inactive", vm).stdout
    return f"{vm} {'created=' in xml} {_BLANKS.sub('><', _ELEMENT.sub('', xml))}"


def _served(folder: Path) -> Iterable[str]:
    """The texts that dnsmasqs read."""
    for file in folder.rglob("*"):
        if file.is_file() and ("hosts" in str(file) or file.name == "conf"):
            yield f"{file.relative_to(folder)}\n{file.read_text()}"


def _told(vm: dict[str, object]) -> str:
    return json.dumps({name: value for name, value in vm.items() if name not in VOLATILE}, sort_keys=True)

"""What people changed in a domain's definition by hand (``virsh edit``), as far as a spec can say it, and beyond.

A definition that we rendered comes back from libvirt with much that libvirt added. So two things are compared: the few
facts that a spec can express, for equality; and all else for whether what was rendered is still in it, and whether
there are more devices of a kind than were rendered, but for kinds that libvirt adds by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from lxml import etree

from lvagent.memo import remembered
from lvagent.render.element import read_xml
from lvagent.spec.vm import VmConfig

FACTS = ("memory_mb", "cpus", "volumes", "networks")
_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "k": 1, "KiB": 1, "M": 1024, "MiB": 1024, "G": 1 << 20}
_KIB |= {"GiB": 1 << 20, "T": 1 << 30, "TiB": 1 << 30}
_OWN = ("metadata", "memory", "currentMemory", "vcpu", "devices")
"""What is not compared as a whole."""

_ADDED = ("address", "alias", "audio", "console", "controller", "emulator", "input", "memballoon", "watchdog")
"""Devices that libvirt adds by itself."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a definition has. ``memory_mb``: None if it is no whole number; ``volumes``: paths; ``networks``: MACs."""

    memory_mb: int | None
    cpus: int
    volumes: tuple[str, ...]
    networks: tuple[str, ...]


def facts_of(spec: VmConfig) -> Facts:
    """What the definition of a spec has."""
    paths = tuple(sorted(volume.path for volume in spec.volumes))
    return Facts(spec.memory_mb, spec.cpus, paths, tuple(sorted(nic.mac for nic in spec.networks)))


@remembered(1 << 12)
def facts(xml: str) -> Facts:
    """What a definition has. Remembered: from one sweep to the next most XML is the same.

    :raise SpecError: it is not XML.
    """
    root = read_xml(xml)
    sources = (disk.find("source") for disk in root.iterfind("devices/disk"))
    macs = (nic.find("mac") for nic in root.iterfind("devices/interface"))
    return Facts(
        memory_mb=_mebibytes(root.find("memory")),
        cpus=int(root.findtext("vcpu", "1").strip() or 1),
        volumes=tuple(sorted(str(source.get("file") or "?") for source in sources if source is not None)),
        networks=tuple(sorted(str(mac.get("address") or "?").lower() for mac in macs if mac is not None)),
    )


def _mebibytes(found: etree._Element | None) -> int | None:
    kib = 0 if found is None else _kibibytes(found)
    return int(kib) // 1024 if kib and kib % 1024 == 0 else None


def _kibibytes(found: etree._Element) -> float:
    """A size with its unit, which libvirt writes in another one (libvirt's "Memory Allocation"); 0 if it is none."""
    text = (found.text or "").strip()
    return int(text) * _KIB.get(found.get("unit", "KiB"), 0) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def beyond(rendered: str, found: str) -> tuple[str, ...]:
    """The parts of a definition that were changed by hand and that no spec can say: ``cpu``, ``devices/hostdev``.

    :param rendered: the definition as we have rendered it.
    :param found: as libvirt has it.
    """
    wish, there = read_xml(rendered), read_xml(found)
    parts = [str(one.tag) for one in wish if one.tag not in _OWN and not any(_within(one, other) for other in there)]
    return tuple(dict.fromkeys((*parts, *_devices(wish, there))))


def _devices(wish: etree._Element, there: etree._Element) -> list[str]:
    mine, others = list(wish.iterfind("devices/*")), list(there.iterfind("devices/*"))
    gone = [str(one.tag) for one in mine if not any(_within(one, other) for other in others)]
    counts = Counter(str(one.tag) for one in others)
    counts.subtract(Counter(str(one.tag) for one in mine))
    more = [tag for tag, count in counts.items() if count > 0 and tag not in _ADDED]
    return [f"devices/{tag}" for tag in (*gone, *more) if tag not in ("controller", "emulator")]


def _within(wish: etree._Element, there: etree._Element) -> bool:
    """Whether all of an element is in another one, which may have more."""
    if wish.tag != there.tag:
        return False
    if wish.get("unit"):
        return _kibibytes(wish) == _kibibytes(there)
    if (wish.text or "").strip() not in ("", (there.text or "").strip()):
        return False
    for name, value in wish.attrib.items():
        if not _same(str(name), str(value), str(there.get(name, ""))):
            return False
    return all(any(_within(child, other) for other in there) for child in wish)


def _same(name: str, wish: str, there: str) -> bool:
    if name == "machine":  # q35 becomes pc-q35-7.2
        return wish in there
    return wish.lower() == there.lower()

"""What the doctor asks of libvirt: its version, its daemon, its emulator."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from lvagent.host.libvirt_lines import Lines


@dataclass(frozen=True, slots=True)
class LibvirtFacts:
    """libvirt's version and the hypervisor's (``major * 1000000 + minor * 1000 + release``), and the emulator that
    domains of this kind run with; '' if it has none for them."""

    version: int
    hypervisor: int
    emulator: str


def ask(uri: str, kind: str, machine: str) -> LibvirtFacts:
    """Ask libvirt.

    :param kind: type of the domains: kvm or qemu.
    :param machine: their machine type.
    :raise Unavailable: it cannot be reached.
    :raise HostError: it has no such emulator.
    """
    lines = Lines(uri, 1)
    try:
        with lines.use("libvirt", "ask") as connection:
            text = connection.getDomainCapabilities(None, "x86_64", machine, kind, 0)
            found = etree.fromstring(text.encode()).findtext("path")
            return LibvirtFacts(connection.getLibVersion(), connection.getVersion(), found or "")
    finally:
        lines.close()


def version_text(number: int) -> str:
    """libvirt's way of writing a version: 9000000 is 9.0.0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

"""Small facts of the host: its boot, its accelerator, its own address."""

from __future__ import annotations

import json
import os
import socket
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path

from lvagent.errors import CommandError, SpecError
from lvagent.host.run import run


def boot_id() -> str:
    """The id of the kernel's current boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def going_down() -> bool:
    """Whether the host is about to stop: then libvirt-guests(8) shuts guests down, and nobody meant them to stay so.

    systemd says so (org.freedesktop.systemd1(5), SystemState); a host without it never does.
    """
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return False
    try:
        return run(["systemctl", "show", "--property=SystemState"], timeout=5).strip() == "SystemState=stopping"
    except CommandError:
        return False


def accelerator(wish: str) -> tuple[str, str]:
    """The domain type to use, and why, in one line.

    /dev/kvm alone proves nothing: under some hypervisors it opens and no guest boots. Like virt-host-validate, ``auto``
    also wants the CPU's own virtualisation flag.

    :param wish: auto, kvm or tcg.
    """
    if wish == "tcg":
        return "qemu", "software emulation, as the settings say"
    if wish == "kvm":
        return "kvm", "KVM, as the settings say"
    if wish != "auto":
        raise SpecError("guests.accel", f"{wish!r} is not known", "one of auto, kvm, tcg")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "qemu", "software emulation: /dev/kvm cannot be opened"
    if not cpu_flags(Path("/proc/cpuinfo").read_text()) & {"vmx", "svm"}:
        return "qemu", "software emulation: /dev/kvm is there, but the CPU shows neither vmx nor svm"
    return "kvm", "KVM: /dev/kvm opens and the CPU has vmx or svm"


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first CPU in the text of /proc/cpuinfo."""
    for row in cpuinfo.splitlines():
        name, _, value = row.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def underlay_address() -> str:
    """The address that this host would send from to the world; '' when it has no default route.

    A datagram socket that is connected sends nothing: the kernel only looks up the route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


RESOLV_CONF = Path("/etc/resolv.conf")
STUB_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
"""The servers that systemd-resolved asks, where /etc/resolv.conf names only its stub (systemd-resolved.service(8))."""


def resolvers() -> tuple[str, ...]:
    """The DNS servers that this host asks, as far as others may ask them too: none of a loopback address or a link."""
    for path in (RESOLV_CONF, STUB_UPSTREAM):
        try:
            found = nameservers(path.read_text(errors="replace"))
        except OSError:
            continue
        if found:
            return found
    return ()


def nameservers(text: str) -> tuple[str, ...]:
    """The servers in a resolv.conf(5) that are no loopback and no link-local address, each once."""
    found = []
    for row in text.splitlines():
        words = row.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ip_address(words[1])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
            found.append(str(address))
    return tuple(dict.fromkeys(found))


def links() -> dict[str, tuple[IPv4Interface | IPv6Interface, ...]]:
    """The links of this host that are no loopback, with their addresses."""
    found = json.loads(run(["ip", "-j", "address", "show"]) or "[]")
    return {
        str(link["ifname"]): tuple(
            ip_interface(f"{one['local']}/{one['prefixlen']}") for one in link.get("addr_info", ())
        )
        for link in found
        if link.get("link_type") != "loopback"
    }


def default_links() -> dict[int, str]:
    """The link of the default route, by IP version."""
    found = {}
    for version in (4, 6):
        ways = json.loads(run(["ip", "-j", f"-{version}", "route", "show", "default"]) or "[]")
        links = [str(one["dev"]) for one in sorted(ways, key=lambda one: one.get("metric", 0)) if "dev" in one]
        if links:
            found[version] = links[0]
    return found


def addresses() -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The addresses of this host with the prefixes of their networks."""
    found = json.loads(run(["ip", "-j", "address", "show"]) or "[]")
    told = (f"{one['local']}/{one['prefixlen']}" for link in found for one in link.get("addr_info", ()))
    return tuple(map(ip_interface, told))

"""Small facts of the host: its boot, its accelerator, its own address."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from lvagent.errors import CommandError, SpecError
from lvagent.host import links as link_messages
from lvagent.host import routes
from lvagent.host.links import Address
from lvagent.host.netlink import NetlinkError, Socket
from lvagent.host.netspace import translated
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


_LOOPBACK = "lo"

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


def links() -> dict[str, tuple[Address, ...]]:
    """The links of this host that are no loopback, with their addresses.

    :raise HostError: the kernel does not tell.
    """
    with _asking("links") as kernel:
        names = _link_names(kernel)
        found = _by_link(kernel)
    return {name: tuple(found.get(index, ())) for index, name in names.items() if name != _LOOPBACK}


def default_links() -> dict[int, str]:
    """The link of the default route, by IP version; of several that of the best metric.

    :raise HostError: the kernel does not tell.
    """
    found: dict[int, str] = {}
    with _asking("default route") as kernel:
        names = _link_names(kernel)
        for version in (4, 6):
            for one in map(routes.parse, sorted(_routes(kernel, version), key=routes.metric)):
                default = one.net in routes.DEFAULTS and one.table == routes.MAIN
                if default and one.kind == routes.RTN_UNICAST and one.link in names:
                    found.setdefault(version, names[one.link])
    return found


def routers() -> frozenset[IPv4Address | IPv6Address]:
    """The next hops of this host's own routes.

    :raise HostError: the kernel does not tell.
    """
    with _asking("routes") as kernel:
        found = [one for version in (4, 6) for one in map(routes.parse, _routes(kernel, version))]
    return frozenset(ip_address(one.gateway) for one in found if one.gateway and one.protocol != routes.OURS)


def _routes(kernel: Socket, version: int) -> list[bytes]:
    try:
        return kernel.dump(routes.get_all(version))
    except NetlinkError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # no IPv6
            return []
        raise


def addresses() -> tuple[Address, ...]:
    """The addresses of this host with the prefixes of their networks.

    :raise HostError: the kernel does not tell.
    """
    with _asking("addresses") as kernel:
        return tuple(one for found in _by_link(kernel).values() for one in found)


@contextlib.contextmanager
def _asking(what: str) -> Iterator[Socket]:
    """The kernel, to be asked about this namespace. No program is started for it: each sweep asks."""
    with translated(f"the {what} of this host", "read"), contextlib.closing(Socket()) as kernel:
        yield kernel


def _link_names(kernel: Socket) -> dict[int, str]:
    return {one.index: one.name for one in map(link_messages.parse, kernel.dump(link_messages.get_all()))}


def _by_link(kernel: Socket) -> dict[int, list[Address]]:
    found: dict[int, list[Address]] = {}
    for pair in map(link_messages.parse_address, kernel.dump(link_messages.get_addresses())):
        if pair is not None:
            found.setdefault(pair[0], []).append(pair[1])
    return found

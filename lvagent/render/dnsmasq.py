"""A VPC's dnsmasq as texts.

One file says what the VPC is, and one small file per NIC says its reservation (``hosts.d``) and its name (``dns.d``):
dnsmasq takes in a new small file while it runs, whereas the first is read only at its start.

Guests are hostile, so nothing a guest says is believed: no dynamic range, no name of its own, no client id.
A VM's first NIC has the tag ``first``, which alone brings a router (option 3, RFC 2132). Routes are not sent by option
121, which would replace option 3 and breaks cloud-init's Ec2 datasource. A router advertisement speaks to a whole
subnet, so its router lifetime is above 0 exactly when some VM has its first NIC there (RFC 4861 section 6.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import Protocol

from lvagent.memo import remembered
from lvagent.render import render
from lvagent.spec import names
from lvagent.spec.vpc import DOMAIN

CONF = "conf"
HOSTS = "hosts.d"
NAMES = "dns.d"

LEASE_MAX = 1_000_000
"""Leases dnsmasq may hold. Only reservations get one, so this only has to be out of the way of the default, 1000."""

MIN_LEASE = 120
"""Seconds; dnsmasq refuses shorter ones."""

ROUTER_LIFETIME = 9000
"""Seconds a guest keeps its IPv6 default route unrefreshed: the longest that RFC 4861 allows."""

NONE = "-"
"""Stands for a gateway that is not there."""


class Host(Hashable, Protocol):
    """One reservation (``plan.resources.DhcpHost``)."""

    @property
    def vm(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def subnet(self) -> str: ...
    @property
    def mac(self) -> str: ...
    @property
    def ipv4(self) -> str | None: ...
    @property
    def ipv6(self) -> str | None: ...
    @property
    def first(self) -> bool: ...


class Subnet(Protocol):
    """One subnet (``plan.resources.DhcpSubnet``)."""

    @property
    def name(self) -> str: ...
    @property
    def mtu(self) -> int: ...
    @property
    def gateway_v4(self) -> IPv4Interface | None: ...
    @property
    def gateway_v6(self) -> IPv6Interface | None: ...


class Served(Protocol):
    """What one dnsmasq serves (``plan.resources.Dhcp``)."""

    @property
    def vpc(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def subnets(self) -> Sequence[Subnet]: ...
    @property
    def hosts(self) -> Sequence[Host]: ...
    @property
    def forwarders(self) -> Sequence[str]: ...
    @property
    def private(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class _Family:
    """One address family of a subnet, as the template writes it."""

    network: str
    netmask: str
    prefix: int
    gateway: str


@dataclass(frozen=True, slots=True)
class _Subnet:
    """A subnet as the template writes it; ``v4`` and ``v6`` have one element or none."""

    name: str
    bridge: str
    mtu: int
    router_lifetime: int
    gateway_v4: str
    gateway_v6: str
    v4: tuple[_Family, ...]
    v6: tuple[_Family, ...]


def texts(wanted: Served, folder: str, lease: int) -> dict[str, str]:
    """All files of a VPC's dnsmasq.

    :param folder: absolute path of the folder that the files will be in.
    :param lease: how long a lease lasts, seconds.
    :return: path inside the folder -> text.
    :raise ValueError: a value that cannot stand in such a file, or that dnsmasq cannot serve.
    """
    _check(wanted)
    found = {CONF: _conf(wanted, folder, lease)}
    for host in wanted.hosts:
        found.update(_host_files(host, wanted.domain))
    return found


@remembered(1 << 13)
def _host_files(host: Host, domain: str) -> tuple[tuple[str, str], ...]:
    # Asked for again for every VM of a VPC whenever one of them comes or goes.
    file = f"{host.vm}-{host.position}"
    reservation = (f"{HOSTS}/{file}", render("dnsmasq-host.j2", fields=_fields(host)))
    return (reservation, (f"{NAMES}/{file}", _names(host, domain))) if host.first else (reservation,)


def pairs(found: Mapping[str, str]) -> dict[str, str]:
    """Which MAC each address is reserved for, by the reservations among these texts (well-formed or not)."""
    lines = (text.strip().split(",") for path, text in found.items() if path.startswith(f"{HOSTS}/"))
    return {address: fields[0] for fields in lines for field in fields[1:] if (address := canonical(field.strip("[]")))}


def keep_leases(text: str, addresses: Iterable[str]) -> str:
    """A lease file without the leases of any other address than these (and without lines that are no leases)."""
    kept = frozenset(addresses)
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith("duid ") or lease_of(line) in kept)


def lease_of(line: str) -> str:
    """The address that a line of a lease file (``expiry mac-or-iaid address name id``) is about, '' if none."""
    fields = line.split(" ")
    return canonical(fields[2]) if len(fields) >= 4 else ""


def canonical(text: str) -> str:
    """An address in its usual form, '' if it is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def _conf(wanted: Served, folder: str, lease: int) -> str:
    routed = {host.subnet for host in wanted.hosts if host.first}
    return render(
        "dnsmasq.conf.j2",
        vpc=wanted.vpc,
        folder=folder,
        lease=max(lease, MIN_LEASE),
        lease_max=LEASE_MAX,
        domain=wanted.domain,
        forwarders=wanted.forwarders,
        private=wanted.private,
        subnets=[_subnet(subnet, subnet.name in routed) for subnet in _by_name(wanted.subnets)],
    )


def _subnet(subnet: Subnet, routed: bool) -> _Subnet:
    return _Subnet(
        name=subnet.name,
        bridge=names.subnet_bridge(subnet.name),
        mtu=subnet.mtu,
        router_lifetime=ROUTER_LIFETIME if routed else 0,
        gateway_v4=str(subnet.gateway_v4 or NONE),
        gateway_v6=str(subnet.gateway_v6 or NONE),
        v4=_family(subnet.gateway_v4),
        v6=_family(subnet.gateway_v6),
    )


def _family(gateway: IPv4Interface | IPv6Interface | None) -> tuple[_Family, ...]:
    if gateway is None:
        return ()
    network = gateway.network
    return (_Family(str(network.network_address), str(network.netmask), network.prefixlen, str(gateway.ip)),)


def _fields(host: Host) -> list[str]:
    # The name of a NIC that is not the first would move the VM's DNS name to that NIC's lease.
    fields = [host.mac, f"set:{host.subnet}"]
    fields += ["set:first"] if host.first else []
    fields += [host.ipv4] if host.ipv4 else []
    fields += [f"[{host.ipv6}]"] if host.ipv6 else []
    return fields + ([host.vm] if host.first else [])


def _names(host: Host, domain: str) -> str:
    addresses = [address for address in (host.ipv4, host.ipv6) if address]
    return render("dnsmasq-names.j2", addresses=addresses, name=host.vm, domain=domain)


def _by_name(subnets: Iterable[Subnet]) -> list[Subnet]:
    return sorted(subnets, key=lambda subnet: subnet.name)


def _check(wanted: Served) -> None:
    _match(names.VPC_NAME, wanted.vpc)
    _match(DOMAIN, wanted.domain)
    for forwarder in wanted.forwarders:
        ip_address(forwarder)
    for name in wanted.private:
        _match(DOMAIN, name)
    known = [subnet.name for subnet in wanted.subnets]
    if len(set(known)) != len(known):
        raise ValueError("a subnet is there twice")
    for subnet in wanted.subnets:
        _check_subnet(subnet)
    for host in wanted.hosts:
        _check_host(host, known)


def _check_subnet(subnet: Subnet) -> None:
    _match(names.SUBNET_NAME, subnet.name)
    if subnet.gateway_v6 is not None and subnet.gateway_v6.network.prefixlen < 64:
        raise ValueError(f"{subnet.name}: dnsmasq serves no IPv6 prefix shorter than 64")
    if subnet.gateway_v6 is not None and subnet.gateway_v6.scope_id is not None:
        raise ValueError(f"{subnet.name}: a gateway has no scope")


def _check_host(host: Host, subnets: Iterable[str]) -> None:
    _match(names.VM_ID, host.vm)
    _match(names.MAC, host.mac)
    if host.subnet not in subnets:
        raise ValueError(f"{host.vm}: there is no subnet {host.subnet!r}")
    for address in (host.ipv4, host.ipv6):
        if (address and str(ip_address(address)) != address) or "%" in (address or ""):
            raise ValueError(f"{host.vm}: {address!r} is not the usual form of an address")


def _match(pattern: re.Pattern[str], value: str) -> None:
    if not pattern.match(value):
        raise ValueError(f"{value!r} cannot stand in dnsmasq's files")

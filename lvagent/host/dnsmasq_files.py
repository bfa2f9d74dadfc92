"""What a dnsmasq was told, read back from its files.

The inverse of ``render.dnsmasq.texts``: the value is taken out of the texts, rendered again, and believed only if
exactly the same texts come out. So an edit by hand is noticed, and so are files of another version of lvagent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from lvagent.plan.resources import Dhcp, DhcpHost, DhcpSubnet
from lvagent.render import dnsmasq as render

_SUBNET_LINE = re.compile(r"# (subnet-[0-9a-z]{10}) mtu ([0-9]+) gateway (\S+) (\S+)")


def read(vpc: str, found: Mapping[str, str], folder: str, lease: int) -> Dhcp | None:
    """The value that these texts were rendered from; its subnets sorted by name, its hosts by VM and position.

    :param found: path inside the folder -> text, as ``render.dnsmasq.texts`` gives them.
    :return: None when they are not, byte for byte, what is rendered from any value.
    """
    try:
        value = _parse(vpc, found)
        return value if render.texts(value, folder, lease) == dict(found) else None
    except (ValueError, KeyError, IndexError):
        return None


def _parse(vpc: str, found: Mapping[str, str]) -> Dhcp:
    lines = found[render.CONF].splitlines()
    hosts = [_host(path, text) for path, text in found.items() if path.startswith(f"{render.HOSTS}/")]
    return Dhcp(
        vpc=vpc,
        domain=_values(lines, "domain=")[0],
        subnets=tuple(_subnet(match) for match in map(_SUBNET_LINE.fullmatch, lines) if match),
        hosts=tuple(sorted(hosts, key=lambda host: (host.vm, host.position))),
        forwarders=tuple(_values(lines, "server=")),
        private=tuple(one.strip("/") for one in _values(lines, "rebind-domain-ok=")),
    )


def _values(lines: Iterable[str], key: str) -> list[str]:
    return [line.removeprefix(key) for line in lines if line.startswith(key)]


def _subnet(match: re.Match[str]) -> DhcpSubnet:
    name, mtu, v4, v6 = match.groups()
    return DhcpSubnet(
        name=name,
        mtu=int(mtu),
        gateway_v4=None if v4 == render.NONE else IPv4Interface(v4),
        gateway_v6=None if v6 == render.NONE else IPv6Interface(v6),
    )


def _host(path: str, text: str) -> DhcpHost:
    vm, _, position = path.removeprefix(f"{render.HOSTS}/").rpartition("-")
    mac, subnet, *rest = text.rstrip("\n").split(",")
    addresses = [ip_address(bare) for field in rest if render.canonical(bare := field.strip("[]"))]
    return DhcpHost(
        vm=vm,
        position=int(position),
        subnet=subnet.removeprefix("set:"),
        mac=mac,
        ipv4=next((str(address) for address in addresses if address.version == 4), None),
        ipv6=next((str(address) for address in addresses if address.version == 6), None),
        first="set:first" in rest,
    )

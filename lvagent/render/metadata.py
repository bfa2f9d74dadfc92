"""What the metadata service tells a guest: three clouds' trees over the same facts.

    /                  the versions of EC2's tree          /openstack/<version>/   meta_data.json, network_data.json ...
    /<version>/        meta-data/ dynamic/ user-data       /nocloud/               meta-data, user-data, vendor-data ...

A tree is a value, ``Folder`` over ``Document``, and a path walks it; a name that is not in the tree leads nowhere, so
there is no path to escape to. JSON comes from ``json.dumps`` only; a text document holds one value on one line; names
in a listing are computed, or quoted as a URL segment is.

The layout is EC2's (docs.aws.amazon.com, "Instance metadata categories"), nova's (docs.openstack.org, "Metadata
service") and NoCloud's (cloudinit.readthedocs.io). What cloud-init 22.4 asks of each:

* NoCloud: ``meta-data`` and ``user-data`` must be there, and a missing ``vendor-data`` is asked for ten times, a second
  apart. So all are there, and the empty ones are an empty cloud-config, which no part handler warns of. It does not
  read ``network-config`` over HTTP (24.1 does); its fallback is DHCP on the first NIC.
* Ec2: of the versions after 2009-04-04 it tries 2021-03-23 first, and takes all NICs from ``network/``.
* OpenStack: NICs come from ``network_data.json``; a link's type must be one that it knows.

The first NIC gets all by DHCP and RA. A further one gets IPv4 by DHCP, which offers it no router, and IPv6 as an
address without RA, because a router advertisement would be a second default route.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TypeAlias
from urllib.parse import quote

from lvagent.plan.resources import Guest, GuestNic

EC2_VERSIONS = ("2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
"""The oldest that cloud-init asks for, the three that it prefers, and ``latest``. All show one tree."""

OPENSTACK_VERSIONS = ("2012-08-10", "2013-10-17", "2015-10-15", "2016-10-06", "2018-08-27", "latest")

ZONE, REGION = "local-1a", "local-1"
NOTHING = b"#cloud-config\n{}\n"

TEXT, JSON, BYTES = "text/plain", "application/json", "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Document:
    """A leaf: its bytes and their media type. The bytes may be a secret and stay out of ``repr``."""

    body: bytes
    media: str = TEXT

    def __repr__(self) -> str:
        return f"Document({len(self.body)} bytes, {self.media})"


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory; ``listing`` are the lines it shows, by default its names, folders with a slash behind."""

    entries: Mapping[str, Folder | Document]
    listing: tuple[str, ...] | None = None

    def show(self) -> Document:
        """The directory as a document: a name a line."""
        lines = self.listing
        if lines is None:
            lines = tuple(name + "/" * isinstance(entry, Folder) for name, entry in self.entries.items())
        return Document("\n".join(lines).encode())


Node: TypeAlias = Folder | Document


def document(guest: Guest, path: str) -> Document | None:
    """What the guest reads at a path.

    :param path: of the URL, without a query; doubled and trailing slashes mean nothing.
    :return: the document, or the listing of a folder; None if there is nothing at that path.
    """
    segments = [segment for segment in path.split("/") if segment]
    if not segments:
        return Folder({}, listing=EC2_VERSIONS).show()
    make = _ROOTS.get(segments[0])
    node: Node | None = make(guest) if make else None
    for segment in segments[1:]:
        node = node.entries.get(segment) if isinstance(node, Folder) else None
    return node.show() if isinstance(node, Folder) else node


def _line(value: str) -> Document:
    return Document(" ".join(value.split("\0")[0].splitlines()).encode(errors="replace"))


def _json(value: object) -> Document:
    return Document(json.dumps(value, indent=1).encode(), JSON)


def _present(entries: Mapping[str, Node | None]) -> dict[str, Node]:
    return {name: entry for name, entry in entries.items() if entry is not None}


def _host(address: str) -> str:
    return address.partition("/")[0]


def _text(value: str | None) -> Document | None:
    return None if value is None else _line(value)


def _address(value: str | None) -> Document | None:
    return None if value is None else _line(_host(value))


def _subnet(value: str | None) -> Document | None:
    return None if value is None else _line(str(ip_interface(value).network))


def _user_data(guest: Guest) -> Document | None:
    return None if guest.user_data is None else Document(guest.user_data, BYTES)


def _first(guest: Guest) -> GuestNic | None:
    return min(guest.nics, key=lambda nic: nic.position, default=None)


# EC2


def _ec2(guest: Guest) -> Folder:
    identity = Folder({"document": _json(_identity(guest))})
    entries = _present(
        {
            "dynamic": Folder({"instance-identity": identity}),
            "meta-data": Folder(_meta_data(guest)),
            "user-data": _user_data(guest),
        }
    )
    return Folder(entries, listing=tuple(entries))


def _identity(guest: Guest) -> dict[str, object]:
    first = _first(guest)
    return {
        "accountId": "000000000000",
        "architecture": "x86_64",
        "availabilityZone": ZONE,
        "imageId": "ami-00000000",
        "instanceId": guest.vm,
        "instanceType": "custom",
        "privateIp": _host(first.ipv4) if first and first.ipv4 else None,
        "region": REGION,
        "version": "2017-09-30",
    }


def _meta_data(guest: Guest) -> dict[str, Node]:
    first = _first(guest)
    return _present(
        {
            "ami-id": _line("ami-00000000"),
            "ami-launch-index": _line("0"),
            "hostname": _line(guest.hostname),
            "instance-id": _line(guest.vm),
            "instance-type": _line("custom"),
            "ipv6": _address(first.ipv6) if first else None,
            "local-hostname": _line(guest.hostname),
            "local-ipv4": _address(first.ipv4) if first else None,
            "mac": _line(first.mac) if first else None,
            "network": Folder({"interfaces": Folder({"macs": _macs(guest)})}),
            "placement": Folder({"availability-zone": _line(ZONE), "region": _line(REGION)}),
            "public-keys": _public_keys(guest) if guest.keys else None,
            "reservation-id": _line(guest.vm.replace("i-", "r-", 1)),
            "security-groups": _line("default"),
        }
    )


def _public_keys(guest: Guest) -> Folder:
    return Folder(
        {str(index): Folder({"openssh-key": _line(key)}) for index, key in enumerate(guest.keys)},
        listing=tuple(f"{index}=key-{index}" for index in range(len(guest.keys))),
    )


def _macs(guest: Guest) -> Folder:
    return Folder({quote(nic.mac, safe=":", errors="surrogatepass"): Folder(_mac(guest, nic)) for nic in guest.nics})


def _mac(guest: Guest, nic: GuestNic) -> dict[str, Node]:
    return _present(
        {
            "device-number": _line(str(nic.position)),
            "interface-id": _line(f"eni-{guest.vm.removeprefix('i-')}-{nic.position}"),
            "ipv6s": _address(nic.ipv6),
            "local-hostname": _line(guest.hostname),
            "local-ipv4s": _address(nic.ipv4),
            "mac": _line(nic.mac),
            "owner-id": _line("000000000000"),
            "security-groups": _line("default"),
            "subnet-id": _line(nic.subnet),
            "subnet-ipv4-cidr-block": _subnet(nic.ipv4),
            "subnet-ipv6-cidr-blocks": _subnet(nic.ipv6),
            "vpc-id": _line(nic.vpc),
        }
    )


# OpenStack


def _openstack(guest: Guest) -> Folder:
    version = Folder(
        _present(
            {
                "meta_data.json": _json(_meta_data_json(guest)),
                "network_data.json": _json(_network_data_json(guest)),
                "user_data": _user_data(guest),
                "vendor_data.json": _json({}),
                "vendor_data2.json": _json({}),
            }
        )
    )
    return Folder(dict.fromkeys(OPENSTACK_VERSIONS, version), listing=OPENSTACK_VERSIONS)


def _meta_data_json(guest: Guest) -> dict[str, object]:
    named = {f"key-{index}": key for index, key in enumerate(guest.keys)}
    return {
        "uuid": guest.vm,
        "name": guest.vm,
        "hostname": guest.hostname,
        "availability_zone": ZONE,
        "launch_index": 0,
        "keys": [{"name": name, "type": "ssh", "data": key} for name, key in named.items()],
        "public_keys": named,
        "meta": {},
    }


def _network_data_json(guest: Guest) -> dict[str, object]:
    links = [
        {"id": f"nic{nic.position}", "type": "phy", "ethernet_mac_address": nic.mac, "mtu": nic.mtu}
        for nic in guest.nics
    ]
    networks = [network for nic in guest.nics for network in _networks(nic)]
    return {"links": links, "networks": networks, "services": []}


def _networks(nic: GuestNic) -> list[dict[str, object]]:
    common: dict[str, object] = {"link": f"nic{nic.position}", "network_id": nic.subnet}
    found: list[dict[str, object]] = []
    if nic.ipv4:
        found.append({"id": f"nic{nic.position}-v4", "type": "ipv4_dhcp", **common})
    if nic.ipv6 and nic.position == 0:
        found.append({"id": f"nic{nic.position}-v6", "type": "ipv6_dhcpv6-stateful", **common})
    elif nic.ipv6:
        address = {"ip_address": _host(nic.ipv6), "netmask": str(ip_interface(nic.ipv6).netmask), "routes": []}
        found.append({"id": f"nic{nic.position}-v6", "type": "ipv6", **common, **address})
    return found


# NoCloud


def _nocloud(guest: Guest) -> Folder:
    meta = {"instance-id": guest.vm, "local-hostname": guest.hostname, "public-keys": list(guest.keys)}
    network = {"version": 2, "ethernets": {f"nic{nic.position}": _ethernet(nic) for nic in guest.nics}}
    return Folder(
        {
            "meta-data": _json(meta),
            "network-config": _json(network),
            "user-data": _user_data(guest) or Document(NOTHING),
            "vendor-data": Document(NOTHING),
        }
    )


def _ethernet(nic: GuestNic) -> dict[str, object]:
    found: dict[str, object] = {"match": {"macaddress": nic.mac}, "mtu": nic.mtu, "dhcp4": nic.ipv4 is not None}
    if nic.position == 0:
        return {**found, "dhcp6": nic.ipv6 is not None}
    if nic.ipv4:
        found["dhcp4-overrides"] = {"use-routes": False}
    if nic.ipv6:
        found["addresses"] = [nic.ipv6]
    return {**found, "dhcp6": False, "accept-ra": False}


_ROOTS: Mapping[str, Callable[[Guest], Folder]] = {
    **dict.fromkeys(EC2_VERSIONS, _ec2),
    "openstack": _openstack,
    "nocloud": _nocloud,
}

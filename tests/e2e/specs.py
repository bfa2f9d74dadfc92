"""Specs for tests, as a client would send them."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]


def nic(
    vpc: str = "vpc-aaaaaaaaaa",
    subnet: str = "subnet-aaaaaaaaaa",
    *,
    net: int = 0,
    host: int = 5,
    vni: int = 100,
    position: int = 0,
) -> Spec:
    """A NIC with the addresses 10.0.<net>.<host> and fd00:a:0:<net>::<host>."""
    return {
        "vxlanid": vni,
        "netname": vpc,
        "subnetname": subnet,
        "position": position,
        "ipv4": f"10.0.{net}.{host}/24",
        "gateway_v4": f"10.0.{net}.1",
        "ipv6": f"fd00:a:0:{net}::{host:x}/64",
        "gateway_v6": f"fd00:a:0:{net}::1",
    }


def vm(number: int, *nics: Spec, **more: object) -> Spec:
    """A VM without a disk: its qemu starts fast and its firmware finds nothing to boot."""
    return {
        "id": f"i-{number:010}",
        "memory_mb": 64,
        "cpus": 1,
        "networks": list(nics) or [nic(host=4 + number)],
        **more,
    }


def guest(number: int, key: str, *nics: Spec, **more: object) -> Spec:
    """A VM with a disk made from the tiny image, that answers over SSH to this key."""
    disk = {"path": f"/var/lib/lvagent/volumes/i-{number:010}.qcow2", "position": 0, "image": "tiny"}
    rule = {"proto": "tcp", "port": 22}
    icmp = [{"proto": "icmp"}, {"proto": "icmpv6"}]
    return {**vm(number, *nics), "memory_mb": 128, "volumes": [disk], "keys": [key], "rules": [rule, *icmp], **more}

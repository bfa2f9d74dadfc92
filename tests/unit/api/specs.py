"""Documents for tests, as a client would send them."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]


def vm(number: int = 1, **more: object) -> Spec:
    """A VM in vpc-aaaaaaaaaa with the address 10.0.0.<number + 4>."""
    nic = {
        "vxlanid": 100,
        "netname": "vpc-aaaaaaaaaa",
        "subnetname": "subnet-aaaaaaaaaa",
        "position": 0,
        "ipv4": f"10.0.{(number + 4) // 256}.{(number + 4) % 256}/16",
        "gateway_v4": "10.0.0.1",
        "ipv6": f"fd00:a::{number + 4:x}/64",
        "gateway_v6": "fd00:a::1",
    }
    return {"id": f"i-{number:010}", "memory_mb": 128, "cpus": 1, "networks": [nic], **more}


def full(number: int = 1) -> Spec:
    """A VM with one of everything."""
    volume = {"path": f"/var/lib/lvagent/volumes/{number}.qcow2", "position": 0, "image": "tiny", "size_gb": 1}
    rule = {"proto": "tcp", "port": 22, "source": "10.0.0.0/8"}
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f demo"
    secret = "#!/bin/sh\necho swordfish\n"
    return vm(number, volumes=[volume], rules=[rule], keys=[key], user_data=secret, datasource="ec2")

"""VMs and options that the domain tests share."""

from __future__ import annotations

from dataclasses import replace

from lvagent.render.domain import DomainOptions, domain_xml
from lvagent.render.element import Element, render_element
from lvagent.spec.dump import digest
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig

FOLDER = "/var/lib/lvagent/volumes"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
HOSTILE = (
    "x</name><devices><disk/></devices>",
    "\"'><hostdev/><x y='",
    "]]><![CDATA[<evil/>",
    "&lt;a&gt; &amp; &#60;b&#62; &undefined;",
    "<!-- --><?pi?><!DOCTYPE x>",
    "{{ 7 * 7 }}{% raw %}",
    "\u00fc\u4e2d\U0001f600 \u00b7",
)
"""Strings that would say more than themselves if something let them."""


def nic(position: int = 0, **more: object) -> dict[str, object]:
    """A NIC as a client says it; its subnet follows its position."""
    letter = "abcdefghij"[position % 10]
    return {
        "vxlanid": 100 + position,
        "netname": "vpc-aaaaaaaaaa",
        "subnetname": f"subnet-{letter * 10}",
        "position": position,
        "ipv4": f"10.0.{position}.5/24",
        "gateway_v4": f"10.0.{position}.1",
        **more,
    }


def disk(position: int = 0, **more: object) -> dict[str, object]:
    """A volume as a client says it."""
    return {"path": f"{FOLDER}/disk-{position}.qcow2", "position": position, **more}


def vm(**more: object) -> VmConfig:
    """A VM with one NIC, and what else is said."""
    return parse_vm({"id": "i-0000000001", "memory_mb": 64, "cpus": 1, "networks": [nic()], **more})


SEED = {
    "Id": "i-0000000001",
    "MemoryMB": 128,
    "CPUs": 1,
    "Volumes": [{"path": f"{FOLDER}/i-0000000001.qcow2", "position": 0, "image": "tiny"}],
    "Networks": [
        {
            "vxlanid": 100,
            "netname": "vpc-aaaaaaaaaa",
            "subnetname": "subnet-aaaaaaaaaa",
            "position": 0,
            "ipV4": "10.0.0.5/24",
            "gatewayV4": "10.0.0.1",
            "ipV6": "fd00:a::5/64",
            "gatewayV6": "fd00:a::1",
        }
    ],
    "Rules": [{"proto": "tcp", "port": 22, "source": "", "destination": ""}],
    "Keys": [KEY],
}

HOSTILE_VM = vm(
    volumes=[
        {"path": f"{FOLDER}/{text.replace('/', '_')}.qcow2", "position": place} for place, text in enumerate(HOSTILE)
    ],
    keys=[f"{KEY} {text}" for text in HOSTILE],
    user_data="".join(HOSTILE),
)

KVM = DomainOptions(accel="kvm")

CASES: dict[str, tuple[VmConfig, DomainOptions]] = {
    "minimal": (vm(), DomainOptions()),
    "seed": (parse_vm(SEED), DomainOptions()),
    "disks": (vm(volumes=[disk(27), disk(0, size_gb=4), disk(3)]), DomainOptions()),
    "nics": (vm(networks=[nic(7, mtu=1400), nic(2), nic(0, mac="06:00:00:00:00:01"), nic(1)]), DomainOptions()),
    "readonly": (vm(volumes=[disk(0), disk(1, image="tiny", readonly=True)]), DomainOptions()),
    "uefi": (vm(volumes=[disk()]), DomainOptions(firmware="uefi")),
    "ec2": (vm(datasource="ec2"), DomainOptions()),
    "openstack": (vm(), DomainOptions(datasource="openstack")),
    "ipv6-only": (
        vm(networks=[nic(ipv4=None, gateway_v4=None, ipv6="fd00:a::5/64", gateway_v6="fd00:a::1")]),
        DomainOptions(),
    ),
    "kvm": (vm(volumes=[disk()], cpus=4, memory_mb=4096), KVM),
    "host-passthrough": (vm(), replace(KVM, cpu="host-passthrough", emulator="/usr/bin/qemu-system-x86_64")),
    "maximum": (vm(), DomainOptions(cpu="maximum", consoles="")),
    "pc": (vm(volumes=[disk()]), DomainOptions(machine="pc", cpu="qemu64")),
    "fast": (vm(), DomainOptions(fast_capabilities=True)),
    "hostile": (HOSTILE_VM, replace(KVM, consoles="/var/log/<a>&'\"", emulator="/usr/bin/<q>&'\"")),
}


def element(spec: VmConfig) -> Element:
    """An element for a VM as it is while it is made."""
    return Element(
        spec=replace(spec, user_data=None),
        digest=digest(spec),
        revision=1,
        power="running",
        boot_id="6a0f1f5c-91f7-4a0f-9d3e-2f1f30f4e7a1",
        created=None,
        files=tuple(volume.path for volume in spec.volumes),
        has_user_data=spec.user_data is not None,
    )


def rendered(spec: VmConfig, options: DomainOptions | None = None) -> str:
    """The domain of a VM, with its element."""
    return domain_xml(spec, options or DomainOptions(), render_element(element(spec)))

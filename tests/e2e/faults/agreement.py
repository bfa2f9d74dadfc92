"""Whether all who know of the VMs say the same: the agent, libvirt, the kernel, and dnsmasq."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.lab.host import LabHost

Json = dict[str, Any]

_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+|fd00:[0-9a-f:]+")


def disagreement(lab: LabHost) -> list[str]:
    """What does not fit together, in words; empty: nothing."""
    vms = lab.api("GET", "/v1/vms").json["items"]
    return [*_libvirt(lab, vms), *_namespaces(lab, vms), *(line for vpc in _vpcs(vms) for line in _vpc(lab, vms, vpc))]


def _vpcs(vms: list[Json]) -> set[str]:
    return {port["vpc"] for one in vms for port in one["ports"]}


def _differ(what: str, told: object, found: object) -> list[str]:
    return [] if told == found else [f"{what}: told {told}, found {found}"]


def _libvirt(lab: LabHost, vms: list[Json]) -> list[str]:
    names = lab.virsh("list", "--all", "--name").stdout.split()
    there = {name: lab.virsh("domstate", name).stdout.strip() for name in names}
    words = {"running": "running", "paused": "paused", "stopped": "shut off", "crashed": "shut off"}
    return _differ("domains", {one["id"]: words.get(one["state"], one["state"]) for one in vms}, there)


def _namespaces(lab: LabHost, vms: list[Json]) -> list[str]:
    found = {name for name in lab.namespaces() if name.startswith("vpc-")}
    listed = {one["name"] for one in lab.api("GET", "/v1/vpcs").json["items"]}
    return [*_differ("VPCs listed", _vpcs(vms), listed), *_differ("namespaces", _vpcs(vms), found)]


def _vpc(lab: LabHost, vms: list[Json], vpc: str) -> list[str]:
    ports = [(one["state"], port) for one in vms for port in one["ports"] if port["vpc"] == vpc]
    shown = lab.run(["ip", "-n", vpc, "-j", "link"], check=False).stdout or "[]"
    links = {link["ifname"]: link for link in json.loads(shown)}
    taps = {name: link.get("master") for name, link in links.items() if name.startswith("t0")}
    wanted = {
        port["tap"]: f"br-{port['subnet'].removeprefix('subnet-')}"
        for state, port in ports
        if state in ("running", "paused")
    }
    bridges = {name for name in links if name.startswith("br-")}
    subnets = {f"br-{port['subnet'].removeprefix('subnet-')}" for _, port in ports}
    addresses = {address.split("/")[0] for _, port in ports for address in port["addresses"]}
    return [
        *_differ(f"taps of {vpc}", wanted, taps),
        *_differ(f"subnets of {vpc}", subnets, bridges),
        *_differ(f"reservations of {vpc}", addresses, _reserved(lab, vpc)),
        *_differ(f"filters of {vpc}", {port["tap"] for _, port in ports}, _filtered(lab, vpc)),
    ]


def _reserved(lab: LabHost, vpc: str) -> set[str]:
    folder = lab.path(f"/run/lvagent/dnsmasq/{vpc}/hosts.d")
    texts = [one.read_text() for one in folder.iterdir()] if folder.exists() else []
    return set(_ADDRESS.findall("".join(texts)))


def _filtered(lab: LabHost, vpc: str) -> set[str]:
    """The ports that the VPC's filter knows."""
    shown = lab.run(["nft", "list", "set", "bridge", "lvagent", "ports"], netns=vpc, check=False).stdout
    return set(re.findall(r'"(t\d{10}-\d+)"', shown))

"""Documents and specs for the tests of spec: plain ones, and strategies for any."""

from __future__ import annotations

import base64
from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import strategies as st

from lvagent.spec.schema import NetworkModel, RuleModel, VmModel, VolumeModel

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f demo"

SEED = {
    "Id": "i-0000000001",
    "MemoryMB": 128,
    "CPUs": 1,
    "Volumes": [{"path": "/v/one.qcow2", "position": 0, "image": "tiny"}],
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
"""The seed spelling of the issue."""


def nic(**fields: object) -> dict[str, object]:
    """A NIC's document in canonical spelling."""
    return {
        "vxlanid": 100,
        "netname": "vpc-aaaaaaaaaa",
        "subnetname": "subnet-aaaaaaaaaa",
        "position": 0,
        "ipv4": "10.0.0.5/24",
        "gateway_v4": "10.0.0.1",
    } | fields


def other_subnet(**fields: object) -> dict[str, object]:
    """A NIC's document in a second subnet of the same VPC."""
    plain = nic(subnetname="subnet-bbbbbbbbbb", vxlanid=200, ipv4="10.0.1.5/24", gateway_v4="10.0.1.1")
    return plain | fields


def volume(**fields: object) -> dict[str, object]:
    """A volume's document."""
    return {"path": "/v/one.qcow2", "position": 0} | fields


def rule(**fields: object) -> dict[str, object]:
    """A rule's document."""
    return {"proto": "tcp"} | fields


def vm(number: int = 1, **fields: object) -> dict[str, object]:
    """A VM's document with one NIC."""
    return {"id": f"i-{number:010}", "memory_mb": 128, "cpus": 1, "networks": [nic()]} | fields


def json_values() -> st.SearchStrategy[object]:
    """Any JSON value, its objects often with the names of our fields."""
    fields = [name for model in (VmModel, VolumeModel, NetworkModel, RuleModel) for name in model.model_fields]
    names = st.sampled_from([*fields, "Id", "MemoryMB", "ipV4", "base64"])
    texts = st.sampled_from(
        ["i-0000000001", "vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", "10.0.0.5/24", "10.0.0.1", "fd00::5/64", "tcp", "ec2"]
    )
    leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | texts
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=5), inner, max_size=8),
        max_leaves=30,
    )


def _name(prefix: str, number: int) -> str:
    return f"{prefix}{number:010}"


@st.composite
def _subnets(draw: st.DrawFn) -> list[dict[str, object]]:
    """Subnets that do not contradict each other: each in a net and with a VNI of its own."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        v4 = ip_network(f"10.{number}.0.0/{draw(st.integers(16, 30))}")
        v6 = ip_network(f"fd00:{number}::/{draw(st.integers(64, 126))}")
        found.append({
            "vxlanid": draw(st.sampled_from([0, 1000 + number])),
            "netname": _name("vpc-", draw(st.integers(0, 1))),
            "subnetname": _name("subnet-", number),
            "mtu": draw(st.none() | st.integers(1280, 9216)),
            "nets": draw(st.sampled_from([(v4,), (v6,), (v4, v6)])),
        })  # fmt: skip
    return found


@st.composite
def _nic(draw: st.DrawFn, subnet: dict[str, object], position: int, used: set[object]) -> dict[str, object] | None:
    document = {key: value for key, value in subnet.items() if key != "nets"} | {"position": position}
    for net in subnet["nets"]:
        assert isinstance(net, IPv4Network | IPv6Network)
        address = net[draw(st.integers(2, net.num_addresses - 2))]
        if address in used:
            return None
        used.add(address)
        family = f"v{net.version}"
        with_prefix = draw(st.sampled_from(["own", "router", "both"]))
        document[f"ip{family}"] = f"{address}/{net.prefixlen}" if with_prefix != "router" else str(address)
        document[f"gateway_{family}"] = f"{net[1]}/{net.prefixlen}" if with_prefix != "own" else str(net[1])
    if draw(st.booleans()):
        document["mac"] = f"0e:00:00:00:{draw(st.integers(16, 99))}:{position:02}"
    document["extra_addresses"] = draw(st.sampled_from([[], ["192.0.2.0/28"], ["2001:db8::/48", "198.51.100.7"]]))
    return document


_PEERS = ["", "0.0.0.0/0", "10.0.0.0/8", "10.0.0.7", "i-0000000007", "subnet-0000000000"]
_PATHS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="/"), min_size=1)


@st.composite
def _rule(draw: st.DrawFn) -> dict[str, object]:
    proto = draw(st.sampled_from(["tcp", "UDP", "sctp", "any", "icmp", 6, "17", 89]))
    document: dict[str, object] = {
        "proto": proto,
        "source": draw(st.sampled_from(_PEERS)),
        "destination": draw(st.sampled_from(_PEERS)),
        "direction": draw(st.sampled_from([None, "ingress", "egress"])),
    }
    if proto in ("tcp", "UDP", "sctp", 6, "17"):
        document["port"] = draw(st.integers(1, 65_535))
        document["port_end"] = draw(st.none() | st.integers(document["port"], 65_535))
    return document


def _user_data() -> st.SearchStrategy[object]:
    coded = st.binary(max_size=100).map(lambda raw: {"base64": base64.b64encode(raw).decode()})
    return st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50) | coded


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    """Documents that are valid."""
    subnets, used = draw(_subnets()), set()
    positions = [0, *draw(st.lists(st.integers(1, 99), max_size=3, unique=True))]
    drawn = [draw(_nic(draw(st.sampled_from(subnets)), position, used)) for position in positions]
    nics = [document for document in drawn if document is not None]
    paths = draw(st.lists(_PATHS.filter(lambda text: len(text.encode()) < 200), max_size=3, unique=True))
    return {
        "id": f"i-{draw(st.integers(0, 10**10 - 1)):010}",
        "memory_mb": draw(st.integers(16, 4_194_304)),
        "cpus": draw(st.integers(1, 255)),
        "networks": draw(st.permutations(nics)),
        "volumes": [
            {"path": f"/v/{path}.qcow2", "position": index, "size_gb": draw(st.none() | st.integers(1, 65_536))}
            for index, path in enumerate(paths)
        ],
        "rules": draw(st.lists(_rule(), max_size=4)),
        "keys": draw(st.sampled_from([None, [], [KEY], [f"  {KEY}\n", KEY]])),
        "user_data": draw(_user_data()),
        "datasource": draw(st.sampled_from([None, "nocloud", "ec2", "openstack"])),
        "restart": draw(st.sampled_from([None, "never", "on-failure", "always"])),
    }

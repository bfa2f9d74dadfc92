"""The three trees: whole against golden files, and no value that could say more than itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.plan.resources import Guest, GuestNic
from lvagent.render import metadata
from lvagent.render.metadata import Document, document

GOLDEN = Path(__file__).parents[2] / "golden" / "metadata"

VPC = "vpc-aaaaaaaaaa"
FIRST = GuestNic(
    0, "06:00:00:00:00:01", 1450, "subnet-aaaaaaaaaa", VPC, "10.0.0.5/24", "10.0.0.1", "fd00:a::5/64", "fd00:a::1"
)
SECOND = GuestNic(
    1, "06:00:00:00:01:01", 1400, "subnet-bbbbbbbbbb", VPC, "10.0.1.5/28", "10.0.1.1", "fd00:b::5/112", "fd00:b::1"
)
FOUR = GuestNic(0, "06:00:00:00:00:02", 1500, "subnet-cccccccccc", VPC, "10.0.2.5/24", "10.0.2.1", None, None)
SIX = GuestNic(0, "06:00:00:00:00:03", 1500, "subnet-dddddddddd", VPC, None, None, "fd00:d::5/64", "fd00:d::1")
KEYS = ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 alice@example", "ssh-rsa AAAAB3NzaC1yc2E bob")

CASES = {
    "two-nics": Guest("i-0000000001", "i-0000000001", KEYS, (FIRST, SECOND), b"#!/bin/sh\necho hello\n"),
    "four-only": Guest("i-0000000002", "i-0000000002", KEYS[:1], (FOUR,), None),
    "six-only-no-keys": Guest("i-0000000003", "i-0000000003", (), (SIX,), None),
}
TWO = CASES["two-nics"]


def _walk(guest: Guest, path: str) -> Iterator[tuple[str, Document]]:
    found = document(guest, path)
    assert found is not None, path
    yield path, found
    for name in _children(path, found):
        yield from _walk(guest, f"{path.rstrip('/')}/{name}")


def _children(path: str, found: Document) -> list[str]:
    """What a client makes of a listing."""
    lines = found.body.decode(errors="replace").splitlines()
    match path:
        case "/":
            return ["latest", "nocloud", "openstack"]
        case "/latest":
            return [line if line == "user-data" else f"{line}/" for line in lines]
        case "/openstack":
            return ["latest"]
        case "/openstack/latest" | "/nocloud":
            return lines
    if path.endswith("public-keys/"):
        return [line.partition("=")[0] + "/" for line in lines]
    return lines if path.endswith("/") else []


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, request: pytest.FixtureRequest) -> None:
    text = "".join(f"==> {path} ({found.media})\n{found.body.decode()}\n" for path, found in _walk(CASES[case], "/"))
    golden = GOLDEN / f"{case}.txt"
    if request.config.getoption("--regenerate", default=False):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("version", metadata.EC2_VERSIONS)
def test_all_ec2_versions_show_one_tree(version: str) -> None:
    latest = [(path.removeprefix("/latest"), found) for path, found in _walk(TWO, "/latest/meta-data/")]
    assert [(path, document(TWO, f"/{version}{path}")) for path, _ in latest] == latest


@pytest.mark.parametrize("version", metadata.OPENSTACK_VERSIONS)
def test_all_openstack_versions_show_one_tree(version: str) -> None:
    for name in ("meta_data.json", "network_data.json", "user_data", "vendor_data.json", "vendor_data2.json"):
        found = document(TWO, f"/openstack/{version}/{name}")
        assert found is not None
        assert found == document(TWO, f"/openstack/latest/{name}")


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/latest/meta-data", "/latest/meta-data/"),
        ("//latest//meta-data//instance-id", "/latest/meta-data/instance-id"),
        ("/latest/dynamic/instance-identity", "/latest/dynamic/instance-identity/"),
        ("/openstack/", "/openstack"),
        ("", "/"),
    ],
)
def test_slashes_mean_nothing(path: str, same: str) -> None:
    assert document(TWO, path) == document(TWO, same) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/1999-01-01/meta-data/",
        "/latest/meta-data/../user-data",
        "/latest/meta-data/instance-id/more",
        "/latest/meta-data/public-keys/2/openssh-key",
        "/latest/meta-data/public-keys/-1/openssh-key",
        "/latest/meta-data/iam/security-credentials/",
        "/latest/meta-data/network/interfaces/macs/06:00:00:00:00:02/",
        "/latest/meta%2ddata/",
        "/nocloud/seed",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    assert document(TWO, path) is None


@pytest.mark.parametrize("path", ["/latest/user-data", "/openstack/latest/user_data", "/nocloud/user-data"])
def test_user_data_is_exactly_what_was_given(path: str) -> None:
    raw = bytes(range(256)) * 3
    found = document(replace(TWO, user_data=raw), path)
    assert found == Document(raw, "application/octet-stream")


def test_without_user_data() -> None:
    none = CASES["four-only"]
    assert document(none, "/latest/user-data") is None
    assert document(none, "/openstack/latest/user_data") is None
    assert document(none, "/nocloud/user-data") == Document(b"#cloud-config\n{}\n")
    assert document(replace(none, user_data=b""), "/nocloud/user-data") == Document(b"", "application/octet-stream")


def test_a_document_hides_its_bytes_in_repr() -> None:
    assert repr(document(TWO, "/latest/user-data")) == "Document(21 bytes, application/octet-stream)"


hostile = st.text(
    alphabet=st.one_of(st.sampled_from("\n\r\t\0\x0b\x85\u2028\"'{}[]:,#=%/\\<>&\ud800 "), st.characters())
)


@given(
    guest=st.builds(
        Guest,
        vm=hostile,
        hostname=hostile,
        keys=st.lists(hostile, max_size=4).map(tuple),
        nics=st.lists(
            st.builds(
                GuestNic,
                position=st.integers(0, 9),
                mac=hostile.filter(bool),
                mtu=st.integers(576, 9000),
                subnet=hostile,
                vpc=hostile,
                ipv4=st.sampled_from([None, "10.0.0.5/24"]),
                gateway_v4=st.none(),
                ipv6=st.sampled_from([None, "fd00::5/64"]),
                gateway_v6=st.none(),
            ),
            max_size=3,
            unique_by=lambda nic: nic.position,
        ).map(tuple),
        user_data=st.none() | st.binary(max_size=50),
    )
)
def test_no_value_breaks_out(guest: Guest) -> None:
    base = {name for name, entry in metadata._meta_data(TWO).items() if entry}
    root = document(guest, "/latest/meta-data/")
    assert root is not None
    assert {line.rstrip("/") for line in root.body.decode().splitlines()} <= base
    for path in ("local-hostname", "instance-id", "hostname"):
        found = document(guest, f"/latest/meta-data/{path}")
        assert found is not None
        assert len(found.body.decode().splitlines()) <= 1
    macs = document(guest, "/latest/meta-data/network/interfaces/macs/")
    assert macs is not None
    lines = macs.body.decode().splitlines()
    assert len(lines) == len({nic.mac for nic in guest.nics})
    assert all(line.endswith("/") and "/" not in line[:-1] and line.isascii() for line in lines)
    meta = json.loads(_body(guest, "/nocloud/meta-data"))
    assert meta == {"instance-id": guest.vm, "local-hostname": guest.hostname, "public-keys": list(guest.keys)}
    nova = json.loads(_body(guest, "/openstack/latest/meta_data.json"))
    assert [key["data"] for key in nova["keys"]] == list(guest.keys)
    links = json.loads(_body(guest, "/openstack/latest/network_data.json"))["links"]
    assert [link["ethernet_mac_address"] for link in links] == [nic.mac for nic in guest.nics]
    network = json.loads(_body(guest, "/nocloud/network-config"))
    assert set(network["ethernets"]) == {f"nic{nic.position}" for nic in guest.nics}


def _body(guest: Guest, path: str) -> bytes:
    found = document(guest, path)
    assert found is not None
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in found.body)
    return found.body

"""dnsmasq's files: whole texts against golden files, and no value that could say more than itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.host.dnsmasq_files import read
from lvagent.plan.resources import Dhcp, DhcpHost, DhcpSubnet
from lvagent.render import dnsmasq

GOLDEN = Path(__file__).parents[2] / "golden" / "dnsmasq"
FOLDER = "/run/lvagent/dnsmasq/vpc-aaaaaaaaaa"
LEASE = 3600

ONE = DhcpSubnet("subnet-aaaaaaaaaa", 1450, IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00:a::1/64"))
TWO = DhcpSubnet("subnet-bbbbbbbbbb", 1500, IPv4Interface("10.0.1.1/28"), None)
SIX = DhcpSubnet("subnet-cccccccccc", 1400, None, IPv6Interface("fd00:c::1/112"))
WEB = DhcpHost("i-0000000001", 0, ONE.name, "06:00:00:00:00:01", "10.0.0.5", "fd00:a::5", True)
SIDE = DhcpHost("i-0000000001", 1, TWO.name, "06:00:00:00:01:01", "10.0.1.5", None, False)
DB = DhcpHost("i-0000000002", 0, SIX.name, "06:00:00:00:00:02", None, "fd00:c::5", True)

CASES = {
    "one": Dhcp("vpc-aaaaaaaaaa", "vpc.internal", (ONE,), (WEB,)),
    "three": Dhcp(
        "vpc-aaaaaaaaaa",
        "cloud.example",
        (ONE, TWO, SIX),
        (WEB, SIDE, DB),
        ("192.0.2.53", "2001:db8::53"),
        ("corp.example",),
    ),
    "second-nics-only": Dhcp("vpc-aaaaaaaaaa", "vpc.internal", (SIX,), (replace(DB, position=1, first=False),)),
}


def _joined(texts: Mapping[str, str]) -> str:
    return "".join(f"==> {path}\n{texts[path]}" for path in sorted(texts))


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, request: pytest.FixtureRequest) -> None:
    text = _joined(dnsmasq.texts(CASES[case], FOLDER, LEASE))
    golden = GOLDEN / f"{case}.txt"
    if request.config.getoption("--regenerate", default=False):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES)
def test_read_gives_the_value_back(case: str) -> None:
    texts = dnsmasq.texts(CASES[case], FOLDER, LEASE)
    assert read("vpc-aaaaaaaaaa", texts, FOLDER, LEASE) == CASES[case]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (dnsmasq.CONF, "address=/#/10.0.0.66\n"),
        ("hosts.d/i-0000000001-0", "06:00:00:00:00:09,10.0.0.9\n"),
        ("hosts.d/other", "06:00:00:00:00:09,10.0.0.9\n"),
        ("dns.d/i-0000000009-0", "10.0.0.5 db\n"),
    ],
)
def test_read_believes_nothing_else(path: str, text: str) -> None:
    texts = dnsmasq.texts(CASES["one"], FOLDER, LEASE)
    texts[path] = texts.get(path, "") + text
    assert read("vpc-aaaaaaaaaa", texts, FOLDER, LEASE) is None


def test_read_needs_every_file() -> None:
    texts = dnsmasq.texts(CASES["one"], FOLDER, LEASE)
    for path in texts:
        rest = {other: text for other, text in texts.items() if other != path}
        found = read("vpc-aaaaaaaaaa", rest, FOLDER, LEASE)
        assert found is None or path.startswith("hosts.d/")
        assert found != CASES["one"]


def test_pairs() -> None:
    texts = dnsmasq.texts(CASES["three"], FOLDER, LEASE)
    assert dnsmasq.pairs(texts) == {
        "10.0.0.5": "06:00:00:00:00:01",
        "fd00:a::5": "06:00:00:00:00:01",
        "10.0.1.5": "06:00:00:00:01:01",
        "fd00:c::5": "06:00:00:00:00:02",
    }


def test_keep_leases() -> None:
    lines = [
        "1700000000 06:00:00:00:00:01 10.0.0.5 i-0000000001 *",
        "1700000000 06:00:00:00:00:02 10.0.0.6 i-0000000002 *",
        "rubbish",
        "duid 00:01:00:01:2c",
        "1700000000 1 fd00:a::5 i-0000000001 00:03:00:01",
        "1700000000 T2 fd00:a:0::6 i-0000000002 00:03:00:01",
        "1700000000 2 nonsense i-0000000002 00:03:00:01",
    ]
    kept = dnsmasq.keep_leases("\n".join(lines) + "\n", ["10.0.0.6", "fd00:a::5"])
    assert kept.splitlines() == [lines[1], lines[3], lines[4]]
    assert dnsmasq.keep_leases("", ["10.0.0.6"]) == ""


@pytest.mark.parametrize(("lease", "said"), [(5, "static,64,120"), (7200, "static,64,7200")])
def test_lease_is_at_least_what_dnsmasq_takes(lease: int, said: str) -> None:
    assert said in dnsmasq.texts(CASES["one"], FOLDER, lease)["conf"]


@pytest.mark.parametrize(
    "wrong",
    [
        replace(CASES["one"], subnets=(ONE, replace(ONE, mtu=1400))),
        replace(CASES["one"], subnets=(TWO,)),
        replace(CASES["one"], subnets=(replace(ONE, gateway_v6=IPv6Interface("fd00:a::1/56")),)),
        replace(CASES["one"], hosts=(replace(WEB, ipv6="fd00:a:0::5"),)),
        replace(CASES["one"], hosts=(replace(WEB, ipv6="fe80::1%lo"),)),
        replace(CASES["one"], forwarders=("192.0.2.53#5353",)),
        replace(CASES["one"], forwarders=("/example.org/192.0.2.53",)),
        replace(CASES["one"], domain="a,b"),
        replace(CASES["one"], domain="a/b"),
        replace(CASES["one"], domain=""),
    ],
)
def test_refused(wrong: Dhcp) -> None:
    with pytest.raises(ValueError):
        dnsmasq.texts(wrong, FOLDER, LEASE)


HOSTILE = st.text(min_size=1, max_size=30) | st.sampled_from(
    [
        "a\nserver=/#/10.0.0.66",
        "10.0.0.5,10.0.0.6",
        "../../etc/passwd",
        "x,set:first",
        "i-0000000001\n",
        "${IFS}",
        '"a"',
    ]
)


@given(
    HOSTILE, st.sampled_from(["vm", "mac", "ipv4", "ipv6", "hsubnet", "domain", "forwarder", "vpc", "subnet", "folder"])
)
def test_no_value_says_more_than_itself(value: str, place: str) -> None:
    try:
        texts = dnsmasq.texts(_with(value, place), value if place == "folder" else FOLDER, LEASE)
    except ValueError:
        return
    reference = dnsmasq.texts(CASES["one"], FOLDER, LEASE)
    extra = 1 if place == "forwarder" else 0
    assert [text.count("\n") for text in texts.values()] == [
        text.count("\n") + (extra if path == "conf" else 0) for path, text in reference.items()
    ]
    assert all(
        path.count("/") == reference_path.count("/") for path, reference_path in zip(texts, reference, strict=True)
    )
    assert texts["conf"].count(",") == reference["conf"].count(",") or place == "folder"


def _with(value: str, place: str) -> Dhcp:
    base = CASES["one"]
    if place in ("vm", "mac", "ipv4", "ipv6"):
        return replace(base, hosts=(replace(WEB, **{place: value}),))
    if place == "hsubnet":
        return replace(base, hosts=(replace(WEB, subnet=value),))
    if place == "subnet":
        return replace(base, subnets=(replace(ONE, name=value),), hosts=(replace(WEB, subnet=value),))
    if place == "forwarder":
        return replace(base, forwarders=(value,))
    return base if place == "folder" else replace(base, **{place: value})


V4 = st.integers(1, 200)
NIC = st.tuples(V4, st.booleans(), st.booleans(), st.booleans())


@given(
    st.lists(NIC, unique_by=lambda nic: nic[0], max_size=6),
    st.lists(st.ip_addresses().map(str).filter(lambda text: "%" not in text), max_size=3),
    st.integers(1280, 9000),
    st.integers(24, 30),
    st.integers(64, 126),
)
def test_read_is_the_inverse(
    nics: list[tuple[int, bool, bool, bool]], forwarders: list[str], mtu: int, prefix4: int, prefix6: int
) -> None:
    four = IPv4Interface((IPv4Address("10.0.0.1"), prefix4))
    six = IPv6Interface((IPv6Address("fd00:a::1"), prefix6))
    hosts = tuple(
        DhcpHost(
            vm=f"i-{number:010d}",
            position=0 if first else 1,
            subnet=ONE.name,
            mac=f"06:00:00:00:00:{number:02x}",
            ipv4=f"10.0.0.{number}" if v4 else None,
            ipv6=f"fd00:a::{number:x}" if v6 or not v4 else None,
            first=first,
        )
        for number, first, v4, v6 in sorted(nics)
    )
    wanted = Dhcp("vpc-aaaaaaaaaa", "vpc.internal", (DhcpSubnet(ONE.name, mtu, four, six),), hosts, tuple(forwarders))
    assert read("vpc-aaaaaaaaaa", dnsmasq.texts(wanted, FOLDER, LEASE), FOLDER, LEASE) == wanted

"""What is wanted of a VPC: one way in, one way out, and errors that say where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.errors import SpecError
from lvagent.spec.json import load
from lvagent.spec.vpc import DEFAULT, MAX_FORWARDERS, UplinkMode, VpcConfig, dump_vpc, parse_vpc

WHOLE = VpcConfig(UplinkMode.NAT, ("192.0.2.53", "2001:db8::53"), "shop.internal", 1400, False)


def test_what_is_not_said_is_open() -> None:
    assert parse_vpc({}) == DEFAULT == VpcConfig(None, None, None, None, None)
    assert parse_vpc({"uplink": None, "Forwarders": None}) == DEFAULT


def test_keys_are_folded_and_addresses_come_once_in_their_usual_form() -> None:
    found = parse_vpc({"Uplink": "routed", "FORWARDERS": ["2001:DB8:0::53", "2001:db8::53"], "metadata": "off"})
    assert found == VpcConfig(UplinkMode.ROUTED, ("2001:db8::53",), None, None, False)


configs = st.builds(
    VpcConfig,
    st.none() | st.sampled_from(UplinkMode),
    st.none() | st.lists(st.sampled_from(["192.0.2.53", "10.1.2.3", "fd00::53"]), unique=True).map(tuple),
    st.none() | st.sampled_from(["a", "vpc.internal", "x-1.example"]),
    st.none() | st.integers(1280, 9216),
    st.none() | st.booleans(),
)


@given(configs)
def test_a_dumped_wish_is_the_same_wish_again(config: VpcConfig) -> None:
    raw = json.dumps(dump_vpc(config)).encode()
    assert parse_vpc(load(raw, max_bytes=10_000)) == config


@given(configs, configs)
def test_what_a_wish_says_goes_before_defaults(config: VpcConfig, defaults: VpcConfig) -> None:
    found = dump_vpc(config.over(defaults))
    said = {name: value for name, value in dump_vpc(config).items() if value is not None}
    assert found == dump_vpc(defaults) | said


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""),
        ({"uplink": "bridge"}, "uplink"),
        ({"uplink": 1}, "uplink"),
        ({"uplinks": "nat"}, "uplinks"),
        ({"forwarders": "192.0.2.53"}, "forwarders"),
        ({"forwarders": ["192.0.2.53", "dns.example"]}, "forwarders[1]"),
        ({"forwarders": ["127.0.0.53"]}, "forwarders[0]"),
        ({"forwarders": ["fe80::1%eth0"]}, "forwarders[0]"),
        ({"forwarders": ["169.254.169.254"]}, "forwarders[0]"),
        ({"forwarders": ["192.0.2.1"] * (MAX_FORWARDERS + 1)}, "forwarders"),
        ({"domain": "Shop.internal"}, "domain"),
        ({"domain": "a..b"}, "domain"),
        ({"domain": "a\nserver=/x/"}, "domain"),
        ({"domain": ""}, "domain"),
        ({"mtu": 1279}, "mtu"),
        ({"mtu": 9217}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"mtu": "1400"}, "mtu"),
        ({"metadata": True}, "metadata"),
        ({"metadata": "maybe"}, "metadata"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(document: object, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_vpc(document)
    assert caught.value.path == path
    assert caught.value.hint

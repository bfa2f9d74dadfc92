"""The settings of uplinks: what cannot be meant is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvagent.config import load
from lvagent.errors import SpecError
from lvagent.host.host import nameservers


def settings(tmp_path: Path, text: str) -> object:
    file = tmp_path / "lvagent.toml"
    file.write_text(text)
    return load(file, {})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[vpc]\nuplink = "bridge"', "vpc.uplink"),
        ('[uplink]\npool_v4 = "198.19.0.1/16"', "uplink.pool_v4"),
        ('[uplink]\npool_v4 = "198.19.0.0/30"', "uplink.pool_v4"),
        ('[uplink]\npool_v4 = "fd00::/64"', "uplink.pool_v4"),
        ('[uplink]\npool_v6 = "198.19.0.0/16"', "uplink.pool_v6"),
        ('[uplink]\npool_v6 = "fd00::/126"', "uplink.pool_v6"),
        ('[uplink]\nipv6 = "nat"', "uplink.ipv6"),
        ("[uplink]\nmtu = 1000", "uplink.mtu"),
        ('[uplink]\ndeny = ["10.0.0.1/8"]', "uplink.deny"),
        ('[uplink]\nrouted = ["x"]', "uplink.routed"),
        ('[uplink]\nrouted = ["198.19.7.0/24"]', "uplink.routed"),
        ('[uplink]\nprivate_names = ["a/b"]', "uplink.private_names"),
        ('[uplink]\nunderlay = "yes"', "uplink.underlay"),
        ('[uplink]\nforeign = "drop"', "uplink.foreign"),
        ("[uplink]\npool = 1", "uplink.pool"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        settings(tmp_path, text)
    assert caught.value.path == path


def test_the_hosts_dns_servers_are_those_that_others_can_ask() -> None:
    text = """
# resolv.conf
search example.org
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver fe80::1%eth0
nameserver ::1
nameserver nonsense
nameserver
nameserver 2001:DB8::53
nameserver 192.0.2.53
options edns0
"""
    assert nameservers(text) == ("192.0.2.53", "2001:db8::53")

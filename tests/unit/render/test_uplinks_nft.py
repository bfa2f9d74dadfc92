"""The tables of uplinks: whole texts against golden files; and what they take is nets and addresses, never a text."""

from __future__ import annotations

import inspect
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import get_type_hints

import pytest
from jinja2 import meta

from lvagent.render import environment, templates_folder, uplinks

GOLDEN = Path(__file__).parents[2] / "golden" / "nft"
POOLS = (ip_network("198.19.0.0/16"), ip_network("fd6c:76a1:93d0:1::/112"))
DENIED = (ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("192.0.2.0/24"), ip_network("fd00:b::/48"))
RESOLVERS = (ip_address("192.0.2.53"), ip_address("10.0.0.53"))

TEXTS = {
    "router": uplinks.router(POOLS, DENIED, RESOLVERS, ipv6=True).text,
    "router-bare": uplinks.router(POOLS, (), (), ipv6=False).text,
    "uplink": uplinks.table(POOLS, DENIED, {4, 6}).text,
    "uplink-routed": uplinks.table(POOLS, (), ()).text,
}


@pytest.mark.parametrize("name", TEXTS)
def test_golden_tables(name: str, request: pytest.FixtureRequest) -> None:
    golden = GOLDEN / f"{name}.nft"
    if request.config.getoption("--regenerate", default=False):
        golden.write_text(TEXTS[name])
    assert TEXTS[name] == golden.read_text()


def test_the_digest_is_of_all_that_is_said() -> None:
    found = {
        uplinks.router(POOLS, denied, asked, ipv6=True).digest
        for denied in ((), DENIED, DENIED[:1])
        for asked in ((), RESOLVERS, RESOLVERS[:1])
    }
    assert len(found) == 9
    assert uplinks.router(POOLS, DENIED, RESOLVERS, ipv6=True) == uplinks.router(
        reversed(POOLS), reversed(DENIED), reversed(RESOLVERS), ipv6=True
    )
    assert uplinks.table(POOLS, DENIED, {4}).digest != uplinks.table(POOLS, DENIED, {4, 6}).digest


def test_the_tables_take_nets_and_addresses_and_no_text() -> None:
    """A net has no spelling that could begin a statement; so it is enough that nothing else comes in."""
    for function in (uplinks.router, uplinks.table):
        kinds = {str(get_type_hints(function)[name]) for name in inspect.signature(function).parameters}
        assert not any("str" in kind for kind in kinds), kinds
    folder = templates_folder()
    for template in ("router.nft.j2", "uplink.nft.j2"):
        names = meta.find_undeclared_variables(environment().parse((folder / template).read_text()))
        assert names <= {"digest", "families", "translated", "ports"}

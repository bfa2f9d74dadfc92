"""Names outside, asked for through the VPC's own dnsmasq and its uplink."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lvagent.host import host
from lvagent.host.dnsmasq import DhcpServer
from tests.host.uplink.conftest import NAT, A, Site
from tests.host.uplink.world import DENIED, SOMEWHERE, WEB, Names

pytestmark = pytest.mark.host

GATEWAY, NOBODY = "10.0.0.1", "203.0.114.99"


@pytest.fixture
def tmp_path(folder: Path) -> Path:
    """Where the site has its files: dnsmasq's user must pass, and each run of pytest closes pytest's own folder."""
    return folder


@pytest.fixture
def make(sites: Callable[..., Site]) -> Callable[..., Site]:
    """Makes a site with a real dnsmasq."""

    def with_dnsmasq(**uplink: object) -> Site:
        return sites(dhcp=DhcpServer, **uplink)

    return with_dnsmasq


@pytest.fixture
def resolver(make: Callable[..., Site]) -> Iterator[tuple[Site, Names]]:
    """A site, and a DNS server outside."""
    site = make()
    server = Names(site.world, "web", WEB, {"rebind.example": "10.0.0.5", "intra.corp.example": "10.0.0.5"})
    yield site, server
    server.close()


def vm_name(site: Site) -> str:
    return f"{next(iter(site.index.all())).spec.id}.vpc.internal"


def test_names_outside_resolve_and_none_of_them_is_an_address_inside(resolver: tuple[Site, Names]) -> None:
    site, server = resolver
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(WEB,)))
    guest = site.guest(A, 5)
    assert guest.resolve(GATEWAY, "www.example") == [SOMEWHERE]
    assert guest.resolve(GATEWAY, "rebind.example") == []
    assert guest.resolve(GATEWAY, vm_name(site)) == ["10.0.0.5"]
    assert guest.resolve(GATEWAY, "nobody.vpc.internal") == []
    assert server.asked == ["www.example", "rebind.example"]


def test_without_an_uplink_nothing_is_forwarded(resolver: tuple[Site, Names]) -> None:
    site, server = resolver
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(WEB,)))
    guest = site.guest(A, 5)
    assert guest.resolve(GATEWAY, "www.example") == [SOMEWHERE]
    site.wishes.drop(A)
    assert guest.resolve(GATEWAY, "www.example") in ([], None)
    assert guest.resolve(GATEWAY, vm_name(site)) == ["10.0.0.5"]
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=()))
    assert guest.resolve(GATEWAY, "www.example") in ([], None)
    assert server.asked == ["www.example"]


def test_a_dead_resolver_keeps_nobody_from_a_name_of_the_vpc_or_the_others(resolver: tuple[Site, Names]) -> None:
    """Each name is asked for once: whoever waited for the dead one would hear nothing without asking again."""
    site, _ = resolver
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(NOBODY,)))
    guest = site.guest(A, 5)
    for number in range(50):
        assert guest.resolve(GATEWAY, f"dead{number}.example", patience=0.001) is None
    assert guest.resolve(GATEWAY, vm_name(site)) == ["10.0.0.5"]
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(NOBODY, WEB)))
    assert guest.resolve(GATEWAY, "www.example") == [SOMEWHERE]


def test_the_hosts_own_resolver_may_be_where_guests_do_not_go(
    make: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host asks a server in a denied net; the VPC's dnsmasq may ask it, a guest may not."""
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver 127.0.0.53\nnameserver {DENIED}\n")
    monkeypatch.setattr(host, "RESOLV_CONF", conf)
    site = make()
    server = Names(site.world, "web", DENIED)
    try:
        site.wishes.put(A, NAT)
        guest = site.guest(A, 5)
        assert site.networks.policy.config(A).forwarders == (DENIED,)
        assert guest.resolve(GATEWAY, "www.example") == [SOMEWHERE]
        assert guest.resolve(DENIED, "www.example", patience=0.5) is None
        conf.write_text(f"nameserver {WEB}\n")
        other = Names(site.world, "web", WEB)
        site.networks.prepare()  # as each sweep does
        site.networks.bring(A)
        assert guest.resolve(GATEWAY, "other.example") == [SOMEWHERE]
        assert other.asked == ["other.example"]
        other.close()
    finally:
        server.close()


def test_a_name_of_a_private_domain_may_be_an_address_inside(make: Callable[..., Site]) -> None:
    site = make(private_names=("corp.example",))
    server = Names(site.world, "web", WEB, {"intra.corp.example": "10.0.0.5", "rebind.example": "10.0.0.5"})
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(WEB,)))
    guest = site.guest(A, 5)
    assert guest.resolve(GATEWAY, "intra.corp.example") == ["10.0.0.5"]
    assert guest.resolve(GATEWAY, "rebind.example") == []
    server.close()


def test_domain_and_forwarders_change_live(resolver: tuple[Site, Names]) -> None:
    site, _ = resolver
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(WEB,)))
    guest = site.guest(A, 5)
    old = vm_name(site)
    site.wishes.put(A, dataclasses.replace(NAT, forwarders=(WEB,), domain="shop.internal"))
    assert guest.resolve(GATEWAY, old.replace("vpc.internal", "shop.internal")) == ["10.0.0.5"]
    served = DhcpServer(site.settings).observe(A)
    assert served is not None
    assert (served.domain, served.forwarders) == ("shop.internal", (WEB,))

"""From settings to what plans and renderings depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from pathlib import Path
from typing import TypeVar

from lvagent.agent.configs import FloatWishes, PortWishes, VpcConfigs
from lvagent.config import Settings
from lvagent.config_uplink import UplinkSettings, nets
from lvagent.errors import LvagentError, SpecError
from lvagent.host import host
from lvagent.host.wishes import WishFiles
from lvagent.plan.uplinks import ALWAYS_DENIED, Denied, UplinkPolicy
from lvagent.plan.wanted import Policy
from lvagent.render import inward, nft, uplinks
from lvagent.render.domain import DomainOptions
from lvagent.spec import names
from lvagent.spec.addresses import Net
from lvagent.spec.vpc import UplinkMode

log = logging.getLogger(__name__)

Interface = IPv4Interface | IPv6Interface

T = TypeVar("T")

CONSOLES = "/var/log/libvirt/qemu"
"""Where the consoles' logs are: a folder that virtlogd may write to under every profile."""


def policy(settings: Settings) -> Policy:
    """What the wanted resources depend on, but for what is wanted of VPCs (``configs``)."""
    local = settings.fabric.local or host.underlay_address()
    return Policy(
        fabric=settings.fabric.netns,
        underlay_mtu=settings.fabric.mtu,
        local=local,
        port=settings.fabric.port,
        domain=settings.vpc.domain,
        forwarders=settings.vpc.forwarders,
        ruleset=nft.base_digest(limits=settings.filter),
        limits=settings.filter,
        uplink=UplinkMode(settings.vpc.uplink),
        metadata=settings.vpc.metadata,
        uplinks=uplink_policy(settings, local),
        led=inward.inward,
    )


def configs(settings: Settings) -> VpcConfigs:
    """What is wanted of VPCs, by their files."""
    return VpcConfigs(WishFiles(Path(settings.paths.vpcs), names.VPC_NAME))


def port_wishes(settings: Settings) -> PortWishes:
    """What is published of VMs, by their files."""
    return PortWishes(WishFiles(Path(settings.paths.vpcs), names.VM_ID, "ports"))


def float_wishes(settings: Settings) -> FloatWishes:
    """The floating addresses, by their files."""
    return FloatWishes(WishFiles(Path(settings.paths.vpcs), names.ADDRESS, "floating"))


def uplink_policy(settings: Settings, local: str) -> UplinkPolicy:
    """How uplinks are on this host as it is now: its DNS servers and networks may change while the agent runs.

    :param local: the address of the VTEP, '' if there is none.
    """
    ways = settings.uplink
    own: tuple[Interface, ...] = _told("addresses", host.addresses, ())
    pools = nets((ways.pool_v4, ways.pool_v6))
    closed = _denied(ways, pools, underlay(local, own) if ways.underlay == "deny" else ())
    denied = [one.net for one in closed]
    resolvers = tuple(one for one in host.resolvers() if one not in {str(address.ip) for address in own})
    asked = dict.fromkeys(map(ip_address, (*settings.vpc.forwarders, *resolvers)))
    ipv6 = ways.ipv6 != "none"
    kinds = (frozenset({4, 6}), frozenset({4}), frozenset[int]())
    return UplinkPolicy(
        pools=pools if ipv6 else pools[:1],
        mtu=ways.mtu,
        ipv6=ways.ipv6,
        routed=nets(ways.routed),
        resolvers=resolvers,
        own=frozenset(one.ip for one in own),
        private=ways.private_names,
        router=uplinks.router(pools, denied, asked, ipv6=ipv6),
        links=_told("links", host.links, {}),
        ways={4: ways.interface, 6: ways.interface}
        if ways.interface
        else _told("default routes", host.default_links, {}),
        tables={kind: uplinks.table(pools, denied, kind, {one.ip for one in own}) for kind in kinds},
        denied=closed,
        routers=_told("routers", host.routers, frozenset()),
    )


def _denied(ways: UplinkSettings, pools: Iterable[Net], below: Iterable[Net]) -> tuple[Denied, ...]:
    """Where no guest goes, each net with what says so.

    :param below: networks of the underlay.
    """
    by_setting = [Denied(net, f"uplink.deny {net}") for net in nets(ways.deny)]
    by_pool = [Denied(net, f"uplink.pool_v{net.version} {net}") for net in pools]
    by_underlay = [Denied(net, f"uplink.underlay deny ({net})") for net in below]
    always = [Denied(net, f"{net}, which never goes out") for net in ALWAYS_DENIED]
    return (*by_setting, *by_underlay, *by_pool, *always)


def underlay(local: str, own: Iterable[Interface]) -> list[Net]:
    """The networks of the interface with this address: what other hosts have there is not for guests.

    :param own: the addresses of this host.
    """
    if not local:
        return []
    return [one.network for one in own if str(one.ip) == local] or [ip_network(local)]


def _told(what: str, ask: Callable[[], T], otherwise: T) -> T:
    """What the host tells of itself; what is assumed if it does not."""
    try:
        return ask()
    except LvagentError as error:
        log.warning("the %s of this host are not known: %s", what, error)
        return otherwise


def domain_options(settings: Settings) -> DomainOptions:
    """How domains are rendered on this host.

    :raise SpecError: a setting that is not one of its choices.
    """
    accel, why = host.accelerator(settings.guests.accel)
    log.info("guests run with %s", why)
    if settings.guests.firmware not in ("bios", "uefi"):
        raise SpecError("guests.firmware", f"{settings.guests.firmware!r} is not known", "bios or uefi")
    return DomainOptions(
        accel=accel,
        cpu=settings.guests.cpu,
        machine=settings.guests.machine,
        firmware=settings.guests.firmware,
        emulator=settings.guests.emulator,
        datasource=settings.guests.datasource,
        consoles=CONSOLES,
        fast_capabilities=settings.guests.fast_capabilities,
    )


def locks_folder(settings: Settings) -> Path:
    """Where the flocks of the VPCs are."""
    return Path(settings.paths.run) / "locks"

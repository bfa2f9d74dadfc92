"""The sysctls of our namespaces: each that matters is said, none is inherited.

What a new namespace begins with depends on the host (``net.core.devconf_inherit_init_net``, modules, distribution).
The order counts: ``ip_forward`` and ``conf.all.forwarding`` put others back to their defaults.

Sources: Documentation/networking/ip-sysctl.rst; net/bridge/br_netfilter_hooks.c.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path("/proc/sys/net")
BRIDGE = ROOT / "bridge"
CALLS = ("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables")


def _both(family: str, values: Mapping[str, int]) -> dict[str, int]:
    return {f"{family}/conf/{scope}/{name}": value for name, value in values.items() for scope in ("all", "default")}


_IPV4 = {
    "rp_filter": 1,
    "accept_redirects": 0,
    "secure_redirects": 0,
    "send_redirects": 0,
    "accept_source_route": 0,
    "arp_ignore": 0,  # the gateway answers for 169.254.169.254, which stands on lo
    "arp_announce": 2,
    "arp_accept": 0,
    "arp_notify": 0,
    "proxy_arp": 0,
    "accept_local": 0,
    "route_localnet": 0,
    "bc_forwarding": 0,
    "log_martians": 0,
}
_IPV6 = {
    "accept_ra": 0,
    "accept_redirects": 0,
    "accept_source_route": 0,
    "autoconf": 0,
    "accept_dad": 0,
    "dad_transmits": 0,
    "router_solicitations": 0,
    "use_tempaddr": 0,
    "proxy_ndp": 0,
}
_BRIDGE = {
    "bridge/bridge-nf-filter-vlan-tagged": 0,
    "bridge/bridge-nf-filter-pppoe-tagged": 0,
    "bridge/bridge-nf-pass-vlan-input-dev": 0,
}
_CLOSED_V6 = {
    "ipv6/conf/all/disable_ipv6": 0,
    "ipv6/conf/default/disable_ipv6": 1,
    "ipv6/conf/default/addr_gen_mode": 1,
}

VPC: Mapping[str, int] = MappingProxyType(
    {
        "ipv4/ip_forward": 1,
        "ipv6/conf/all/forwarding": 1,
        "ipv6/conf/default/forwarding": 1,
        **_both("ipv4", _IPV4),
        **_both("ipv6", _IPV6),
        **_CLOSED_V6,
        "ipv6/conf/lo/disable_ipv6": 0,
        "ipv4/ip_nonlocal_bind": 0,
        "ipv6/ip_nonlocal_bind": 0,
        "ipv4/ip_unprivileged_port_start": 1024,
        # The stateful filter sees bridged frames through br_netfilter: bridge conntrack is missing on some kernels.
        **dict(zip(CALLS, (1, 1, 0), strict=True)),
        **_BRIDGE,
    }
)
"""A VPC's namespace. A link there has no IPv6 unless it is switched on for it (``ipv6_on``)."""

COUNTING: Mapping[str, int] = MappingProxyType({"netfilter/nf_conntrack_acct": 1})
"""Flows know how many bytes they have carried. There when conntrack is."""

FABRIC: Mapping[str, int] = MappingProxyType(
    {
        "ipv4/ip_forward": 0,
        "ipv6/conf/all/forwarding": 0,
        "ipv6/conf/default/forwarding": 0,
        **_both("ipv4", _IPV4 | {"arp_ignore": 8}),
        **_both("ipv6", _IPV6),
        **_CLOSED_V6,
        "ipv6/conf/all/disable_ipv6": 1,
        **dict.fromkeys(CALLS, 0),
        **_BRIDGE,
    }
)
"""The namespace of the underlay side: it has no addresses, answers nothing and filters nothing but by its guard."""


def uplink_outer(device: str, *, ipv6: bool) -> dict[str, int]:
    """Those of the end of an uplink in root, whatever root's own are."""
    four = _IPV4 | {"forwarding": 1, "arp_ignore": 1}
    six = _IPV6 | {"addr_gen_mode": 1, "forwarding": 1, "disable_ipv6": int(not ipv6)}
    return {f"ipv4/conf/{device}/{name}": value for name, value in four.items()} | {
        f"ipv6/conf/{device}/{name}": value for name, value in six.items()
    }


UPLINK_VITAL = ("ipv4/conf/{}/forwarding", "ipv6/conf/{}/disable_ipv6", "ipv6/conf/{}/accept_ra")
"""Those of an uplink's end in root that are looked at again each time it is observed."""

VITAL = (
    "ipv4/ip_forward",
    "ipv6/conf/all/forwarding",
    "ipv4/conf/all/rp_filter",
    "ipv6/conf/default/disable_ipv6",
    *CALLS,
)
"""Those that are looked at again each time a VPC is observed."""


_OF_LINK = re.compile(r"ipv[46]/conf/(?!all/|default/)([^/]+)/")


def write(values: Mapping[str, int]) -> None:
    """Set them in the namespace of the calling thread, in this order.

    :raise OSError: the kernel has no such sysctl, or the file system is read-only; ENODEV: no such link.
    """
    for name, value in values.items():
        descriptor = _opened(name)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)


def _opened(name: str) -> int:
    try:
        return os.open(ROOT / name, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        link = _OF_LINK.match(name)
        if link is None or (ROOT / name).parent.exists():
            raise
        raise OSError(errno.ENODEV, "there is no such link", link[1]) from error


def holds(values: Mapping[str, int]) -> bool:
    """Whether all of them have these values in the namespace of the calling thread."""
    try:
        return all((ROOT / name).read_text().strip() == str(value) for name, value in values.items())
    except OSError:
        return False


def ipv6_off(*devices: str) -> None:
    """Switch IPv6 off for links, in the namespace of the calling thread."""
    write({f"ipv6/conf/{device}/disable_ipv6": 1 for device in devices})


def ipv6_on(*devices: str) -> None:
    """Switch IPv6 on for links of a VPC, in the namespace of the calling thread."""
    write({f"ipv6/conf/{device}/disable_ipv6": 0 for device in devices})

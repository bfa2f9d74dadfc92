"""What this kernel can filter, tried once in a namespace that nobody else sees.

A VPC's filter follows bridged frames through br_netfilter, which every kernel has; connection tracking of the bridge
family itself (nf_conntrack_bridge, Linux 5.3) is missing on some, and is not needed. Which there is, is said in the
log: it matters to somebody who compares hosts.
"""

from __future__ import annotations

import contextlib
import logging

from lvagent.config import FilterSettings
from lvagent.errors import HostError
from lvagent.host import netns
from lvagent.host.netlink import NETFILTER, Socket
from lvagent.host.netspace import translated
from lvagent.host.nft import Nft
from lvagent.host.nft_read import fixed_rules
from lvagent.render.nft import base

log = logging.getLogger(__name__)

_BRIDGE_CONNTRACK = """\
table bridge probe {
	chain forward {
		type filter hook forward priority 0; policy accept;
		ct state established accept
	}
}
"""


def check(limits: FilterSettings) -> int:
    """Make sure that the kernel takes the filter of a VPC, before a VM needs it.

    :return: how many rules its base has, as the kernel counts.
    :raise HostError: it does not; the message has the first line that it refused.
    """
    with translated("the kernel's filter", "try"):
        try:
            count = netns.scratch(lambda: _takes(base(limits=limits)))
        except HostError as error:
            hint = "nf_tables with fib, ct, connlimit and limit, and br_netfilter are needed: load their modules"
            raise HostError("the kernel's filter", "use", error.cause, hint=hint) from error
    has = "has" if bridge_conntrack() else "lacks"
    log.info("rules see bridged frames through br_netfilter (this kernel %s bridge conntrack; it is not used)", has)
    return count


def bridge_conntrack() -> bool:
    """Whether the kernel can follow connections in the bridge family by itself."""
    try:
        netns.scratch(lambda: _takes(_BRIDGE_CONNTRACK))
    except HostError:
        return False
    return True


def _takes(text: str) -> int:
    with contextlib.ExitStack() as stack:
        context = Nft()
        stack.callback(context.close)
        netfilter = Socket(NETFILTER)
        stack.callback(netfilter.close)
        context.run(text, "the kernel's filter", "try")
        return fixed_rules(netfilter)

"""br_netfilter: the module by which a VPC's stateful filter sees bridged frames.

Loading it switches it on for every bridge of the host, and a host with a closed FORWARD chain (Docker's) would cut its
VMs off. So if it is loaded by us, it is switched off in root in the same step; if it was there, root stays as it is.
"""

from __future__ import annotations

from lvagent.host import sysctl
from lvagent.host.netspace import translated
from lvagent.host.run import run


def load() -> None:
    """Make sure that br_netfilter is there.

    :raise HostError: the kernel has none.
    """
    if sysctl.BRIDGE.exists():
        return
    run(["modprobe", "br_netfilter"])
    with translated("br_netfilter", "load"):
        sysctl.write(dict.fromkeys(sysctl.CALLS, 0))

"""The operations that pass the points, each with what must be there before it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException

from tests.e2e.faults.faulty import SUBJECT, Faulty
from tests.e2e.specs import Spec, nic, vm

A, B, C = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb", "vpc-cccccccccc"
FLOAT = "192.0.2.50"
"""An address of the network of the host's default route."""
VOLUMES = "/var/lib/lvagent/volumes"
RULES = [{"proto": "tcp", "port": 22}]


def disk(position: int) -> Spec:
    return {"path": f"{VOLUMES}/fault-{position}.qcow2", "position": position, "size_gb": 1}


def first(**more: object) -> Spec:
    """The VM that faults happen to: two NICs in two VPCs, a volume, rules and user data."""
    nics = [nic(A, host=6), nic(B, "subnet-bbbbbbbbbb", net=1, vni=0, host=6, position=1)]
    return vm(2, *nics, **{"volumes": [disk(0)], "rules": RULES, "user_data": "#!/bin/true\n", **more})


def second() -> Spec:
    """The same with other rules and user data, one more volume, and its second NIC in another VPC."""
    nics = [nic(A, host=6), nic(C, "subnet-cccccccccc", net=2, vni=300, host=6, position=1)]
    rules = [{"proto": "udp", "port": 53}]
    return first(networks=nics, rules=rules, volumes=[disk(0), disk(1)], user_data="#!/bin/false\n")


@dataclass(frozen=True, slots=True)
class Operation:
    """``prepare`` brings a host on which only the neighbour is to what is there before; ``do`` is what fails.

    ``undone``: what it leaves when a step raises is what was before it (else what is after it, when swept).
    ``starts``: ``do`` starts the agent.
    """

    name: str
    prepare: Callable[[Faulty], None]
    do: Callable[[Faulty], int]
    undone: bool = True
    starts: bool = False


def _nothing(faulty: Faulty) -> None:
    """There is only the neighbour."""


def _made(faulty: Faulty) -> None:
    assert faulty.put(first()) == 201


def _stopped(faulty: Faulty) -> None:
    _made(faulty)
    assert faulty.act("stop") == 200


def _peered(faulty: Faulty) -> None:
    _made(faulty)
    assert faulty.peer("PUT", A, B) == 201


def _crashed(*lines: str) -> Callable[[Faulty], None]:
    """An agent that was killed while it made the VM."""

    def prepare(faulty: Faulty) -> None:
        faulty.arm(*lines)
        with contextlib.suppress(OSError, ValueError, HTTPException):
            faulty.put(first())
        faulty.await_end()

    return prepare


def _booted(faulty: Faulty) -> None:
    """The host was booted since the VM ran: its qemu is gone, and the kernel has another boot id."""
    _made(faulty)
    faulty.lab.kill_agent(signal.SIGKILL)
    faulty.lab.virsh("destroy", SUBJECT)
    faulty.other_boot()


def _shut(faulty: Faulty) -> None:
    """The neighbour's VPC had a way out once: the files of its locks are there."""
    _opened(faulty)
    assert faulty.want(A, None) == 204


def _opened(faulty: Faulty) -> None:
    """The neighbour's VPC has a way out."""
    assert faulty.want(A, {"uplink": "nat"}) == 200


def _published(faulty: Faulty) -> None:
    """A port leads to the neighbour."""
    _opened(faulty)
    assert faulty.publish(8080) == 200


def _floated(faulty: Faulty) -> None:
    """An address is led to the neighbour."""
    _opened(faulty)
    assert faulty.float(FLOAT) == 200


def _start(faulty: Faulty) -> int:
    faulty.start()
    return 200


OPERATIONS = {
    one.name: one
    for one in (
        Operation("create", _nothing, lambda faulty: faulty.put(first())),
        Operation("change", _made, lambda faulty: faulty.put(second())),
        Operation("change a stopped one", _stopped, lambda faulty: faulty.put(second())),
        Operation("delete", _made, lambda faulty: faulty.delete(), undone=False),
        Operation("start", _stopped, lambda faulty: faulty.act("start")),
        Operation("open", _shut, lambda faulty: faulty.want(A, {"uplink": "nat"})),
        Operation("close", _opened, lambda faulty: faulty.want(A, None)),
        Operation("publish", _opened, lambda faulty: faulty.publish(8080)),
        Operation("publish elsewhere", _published, lambda faulty: faulty.publish(8081)),
        Operation("float", _opened, lambda faulty: faulty.float(FLOAT)),
        Operation("release", _floated, lambda faulty: faulty.float(FLOAT, on=False)),
        Operation("stop", _made, lambda faulty: faulty.act("stop")),
        Operation("peer", _made, lambda faulty: faulty.peer("PUT", A, B)),
        Operation("part", _peered, lambda faulty: faulty.peer("DELETE", B, A), undone=False),
        Operation("finish a create", _crashed("create.started kill"), _start, undone=False, starts=True),
        Operation("clear a create", _crashed("volume.made kill"), _start, undone=False, starts=True),
        Operation("boot", _booted, _start, undone=False, starts=True),
    )
}
"""By name."""

PASSES = {
    "create.claimed": ("create",),
    "create.defined": ("create",),
    "create.secret": ("create",),
    "create.started": ("create",),
    "create.committed": ("create",),
    "volume.made": ("create", "change"),
    "connect.wired": ("create",),
    "connect.served": ("create",),
    "plug.judged": ("create", "start"),
    "plug.plugged": ("create", "start"),
    "change.wished": ("change", "change a stopped one"),
    "change.noted": ("change",),
    "change.defined": ("change", "change a stopped one"),
    "change.secret": ("change",),
    "change.marked": ("change",),
    "change.converged": ("change", "change a stopped one"),
    "undo.step": ("create", "change"),
    "delete.marked": ("delete",),
    "delete.stopped": ("delete",),
    "delete.unpublished": ("delete",),
    "delete.volumes": ("delete",),
    "delete.secret": ("delete",),
    "delete.log": ("delete",),
    "delete.undefined": ("delete",),
    "delete.forgotten": ("delete",),
    "delete.unwired": ("delete",),
    "power.wished": ("start", "stop"),
    "power.acted": ("start", "stop"),
    "network.removed": ("change a stopped one", "delete"),
    "network.made": ("create", "change a stopped one"),
    "network.plugged": ("create", "start"),
    "peer.wished": ("peer",),
    "peer.stored": ("peer",),
    "peer.paired": ("peer",),
    "peer.routed": ("peer",),
    "peer.made": ("peer",),
    "peer.unwished": ("part",),
    "peer.closed": ("part",),
    "peer.removed": ("part",),
    "wires.based": ("create", "change a stopped one"),
    "wires.segments": ("create", "change a stopped one"),
    "wires.linked": ("create", "change a stopped one"),
    "unwire.ports": ("delete",),
    "unwire.crossing": ("delete",),
    "router.filtered": ("open",),
    "router.forwarding": ("open",),
    "router.restored": ("close",),
    "uplink.closed": ("open",),
    "uplink.linked": ("open",),
    "uplink.addressed": ("open",),
    "uplink.removed": ("close",),
    "vpc.wished": ("open", "close"),
    "vpc.converged": ("open", "close"),
    "vpc.kept": ("open", "close"),
    "ports.wished": ("publish", "publish elsewhere"),
    "ports.converged": ("publish", "publish elsewhere"),
    "ports.kept": ("publish", "publish elsewhere"),
    "inward.led": ("publish", "publish elsewhere", "float"),
    "inward.opened": ("publish", "publish elsewhere"),
    "inward.closed": ("publish elsewhere",),
    "floating.wished": ("float", "release"),
    "floating.proxied": ("float",),
    "floating.converged": ("float", "release"),
    "floating.kept": ("float", "release"),
    "dhcp.served": ("create", "change a stopped one"),
    "dhcp.removed": ("delete",),
    "metadata.served": ("create", "change a stopped one"),
    "metadata.removed": ("delete",),
    "sweep.prepared": ("finish a create",),
    "sweep.read": ("finish a create", "clear a create"),
    "sweep.kept": ("finish a create",),
    "sweep.discarding": ("clear a create",),
    "sweep.discarded": ("clear a create",),
    "sweep.restarted": ("boot",),
    "sweep.settled": ("finish a create", "clear a create"),
    "sweep.converged": ("finish a create", "clear a create"),
}
"""The operations that pass each point."""

BESIDE = {"undo.step": {"create": "create.started raise", "change": "change.marked raise"}}
"""What else must fail for a point to be passed."""

CASES = [
    (point, name, action) for point, ways in PASSES.items() for name in ways for action in ("kill", "raise", "hang")
]
"""The whole table."""

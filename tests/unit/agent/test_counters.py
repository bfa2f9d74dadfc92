"""What rules have counted: summed over families and VPCs, told in the order of the spec, and when it grew."""

from __future__ import annotations

from lvagent.agent.counters import Counters
from lvagent.host.nft_read import Counted
from lvagent.render.elements import Rule
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
IN, OUT = "in-0000000005", "eg-0000000005"
TCP, GROUP4, GROUP6, AWAY = (
    "ingress 0 tcp 22-22 any any",
    "ingress 4 udp 53-53 i-0000000006 any",
    "ingress 6 udp 53-53 i-0000000006 any",
    "egress 4 any any any 10.9.0.0/16",
)


def nic(vpc: str, position: int) -> dict[str, object]:
    number = {A: "a", B: "b"}[vpc] * 10
    return {"vxlanid": 0, "netname": vpc, "subnetname": f"subnet-{number}", "position": position,
            "ipv4": f"10.0.{position}.5/24", "gateway_v4": f"10.0.{position}.1"}  # fmt: skip


def vm(*vpcs: str) -> VmConfig:
    rules = [
        {"proto": "udp", "port": 53, "source": "i-0000000006"},
        {"proto": "tcp", "port": 22},
        {"proto": "any", "destination": "10.9.0.0/16"},
    ]
    nics = [nic(vpc, position) for position, vpc in enumerate(vpcs)]
    return parse_vm({"id": "i-0000000005", "memory_mb": 64, "cpus": 1, "networks": nics, "rules": rules})


class Kernel:
    """What is counted in each VPC: packets by rule; a packet has 100 bytes."""

    def __init__(self) -> None:
        self.packets: dict[str, dict[tuple[str, str], int]] = {A: {}, B: {}}
        self.handle = 1

    def read(self, vpc: str) -> list[Counted]:
        return [
            Counted(Rule(chain, comment), self.handle, packets, packets * 100)
            for (chain, comment), packets in self.packets[vpc].items()
        ]


def test_a_rule_is_the_sum_of_its_families_and_vpcs() -> None:
    kernel, clock = Kernel(), [1_000.0]
    kernel.packets[A] = {(IN, GROUP4): 2, (IN, GROUP6): 3, (IN, TCP): 0, (OUT, AWAY): 1, (IN, "closed"): 7}
    kernel.packets[B] = {(IN, GROUP4): 10, (OUT, "closed"): 4, ("in-0000000009", TCP): 99}
    both = Counters(kernel.read, lambda: clock[0])
    for vpc in (A, B):
        both.look(vpc)
    view = both.view(vm(A, B))
    assert [(one.rule.proto, one.packets, one.bytes) for one in view.rules] == [
        ("udp", 15, 1500),
        ("tcp", 0, 0),
        ("any", 1, 100),
    ]
    assert [str(one.rule.direction) for one in view.rules] == ["ingress", "ingress", "egress"]
    assert (view.refused_in, view.refused_out) == ((7, 700), (4, 400))
    assert both.view(vm(A)).rules[0].packets == 5


def hits(seen: Counters) -> list[str | None]:
    return [one.last_hit for one in seen.view(vm(A)).rules]


def test_a_rule_was_hit_when_its_count_has_grown_since_the_look_before() -> None:
    kernel, clock = Kernel(), [1_000.0]
    kernel.packets[A] = {(IN, GROUP4): 2, (IN, TCP): 0}
    seen = Counters(kernel.read, lambda: clock[0])
    seen.look(A)
    assert hits(seen) == [None, None, None], "when that was, nobody saw"
    clock[0] += 30
    kernel.packets[A][IN, TCP] = 1
    seen.look(A)
    assert hits(seen) == [None, "1970-01-01T00:17:10.000+00:00", None]
    clock[0] += 30
    seen.look(A)
    assert hits(seen)[1] == "1970-01-01T00:17:10.000+00:00"
    kernel.packets[A][IN, GROUP4] = 3
    seen.look(A)
    assert hits(seen)[0] == "1970-01-01T00:17:40.000+00:00"


def test_a_rule_that_was_written_anew_is_hit_only_if_it_counts() -> None:
    kernel, clock = Kernel(), [1_000.0]
    kernel.packets[A] = {(IN, TCP): 5}
    seen = Counters(kernel.read, lambda: clock[0])
    seen.look(A)
    kernel.handle, kernel.packets[A][IN, TCP] = 2, 0
    seen.look(A)
    assert hits(seen)[1] is None
    kernel.handle, kernel.packets[A][IN, TCP] = 3, 5
    seen.look(A)
    assert hits(seen)[1] is not None


def test_a_rule_that_came_since_the_first_sweep_was_hit_since_then() -> None:
    kernel, clock = Kernel(), [1_000.0]
    seen = Counters(kernel.read, lambda: clock[0])
    seen.look(A)
    seen.forget([A])
    kernel.packets[A] = {(IN, TCP): 5, (IN, GROUP4): 0}
    seen.look(A)
    assert hits(seen) == [None, "1970-01-01T00:16:40.000+00:00", None]


def test_vpcs_that_are_gone_are_forgotten() -> None:
    kernel, clock = Kernel(), [1_000.0]
    kernel.packets[A] = {(IN, TCP): 5}
    seen = Counters(kernel.read, lambda: clock[0])
    seen.look(A)
    seen.forget([B])
    assert seen.view(vm(A)).rules[1].packets == 0

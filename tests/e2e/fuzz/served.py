"""A real agent and its own OpenAPI document: what routes there are, and which names exist on the host."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from tests.e2e.fuzz.routes import Json, Route, general_routes
from tests.e2e.fuzz.sent import Request
from tests.e2e.specs import nic, vm
from tests.lab.host import Answer, LabHost
from tests.lab.http import exchange

NETS = (("vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", 0, 100), ("vpc-bbbbbbbbbb", "subnet-bbbbbbbbbb", 1, 0))
"""VPC, subnet, number of its net, VNI."""

IDS = tuple(f"i-{number:010}" for number in (5_551_110_001, 5_551_110_002, 5_551_110_003))
"""The VMs that come and go. None is the document's example or a plain number, which made-up requests hit by themselves:
such a DELETE could give a guest an hour's grace."""

LAST = tuple(f"op-00000000000000{number:02}" for number in range(5))
"""These stand for the last operations, whose ids nobody knows before."""

NAMES = (*IDS, *(name for vpc, subnet, *_ in NETS for name in (vpc, subnet)), "192.0.2.50", *LAST)
"""Names that may be found."""

CANARY = "canary-7d41c09b"
"""Stands in all user data that is sent, and so in no answer and no log."""


@dataclass(slots=True)
class Served:
    """The agent under test. ``statuses``: how often each operation was answered with each status; ``old``:
    the changes that tests before asked for."""

    lab: LabHost
    document: Json
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    old: set[str] = field(default_factory=set)

    @property
    def routes(self) -> list[Route]:
        """The routes that made-up requests may be sent to."""
        return general_routes(self.document)

    def send(self, request: Request) -> Answer:
        """Send a request as it is, with the ids of real operations in place of those that stand for one."""
        socket = str(self.lab.path("/run/lvagent/api.sock"))
        body = request.parts() if request.chunked else request.body
        target = self._real(request.target)
        return exchange(socket, request.method, target, body, timeout=90, headers=request.headers)

    def _real(self, target: str) -> str:
        last = [one for one in LAST if one in target]
        if not last:
            return target
        known = [one["id"] for one in self.operations()]
        return target.replace(last[0], known[-LAST.index(last[0]) - 1 :][0] if known else last[0])

    def populate(self) -> None:
        """Let there be two of the three VMs, unless others have their addresses."""
        for number, one in enumerate(IDS[:2]):
            spec = {**vm(0, nic(host=4 + number), user_data=CANARY), "id": one}
            answer = self.lab.api("POST", "/v1/vms", spec)
            assert answer.status in (200, 201, 409), answer.text

    def told(self) -> str:
        """How often what was answered, as text."""
        lines: dict[str, str] = {}
        for (operation, status), times in sorted(self.statuses.items()):
            lines[operation] = lines.get(operation, f"{operation:16}") + f" {times}x{status}"
        return "\n".join(lines.values())

    def operations(self) -> list[Json]:
        """All operations that are known."""
        found: list[Json] = self.lab.api("GET", "/v1/operations").json["items"]
        return found

    def settle(self, seconds: float = 60) -> list[Json]:
        """Wait for what was promised.

        :return: the problems of the operations that failed, of this test.
        """
        deadline = time.monotonic() + seconds
        while any(one["status"] == "running" for one in self.operations()):
            assert time.monotonic() < deadline, "operations do not end"
            time.sleep(0.05)
        return [one["problem"] for one in self.operations() if one["problem"] and one["id"] not in self.old]

    def begin(self) -> None:
        """Forget what was before, and let there be no VM."""
        self.clear()
        self.statuses.clear()
        self.old = {one["id"] for one in self.operations()}

    def vms(self) -> list[Json]:
        """All VMs."""
        found: list[Json] = self.lab.api("GET", "/v1/vms").json["items"]
        return found

    def clear(self) -> None:
        """Delete all VMs, with what the agent made for them, the volumes that earlier ones left, and wishes of VPCs."""
        self.settle()
        for one in self.lab.api("GET", "/v1/peerings").json["items"]:
            assert self.lab.api("DELETE", f"/v1/peerings/{one['a']}/{one['b']}").status == 204
        for one in self.vms():
            assert self.lab.api("DELETE", f"/v1/vms/{one['id']}?volumes=delete").status in (204, 404)
        for one in self.lab.api("GET", "/v1/vpcs").json["items"]:
            assert self.lab.api("DELETE", f"/v1/vpcs/{one['name']}").status == 204
        for left in self.lab.path("/var/lib/lvagent/volumes").glob("*.qcow2"):
            left.unlink()


def serve(lab: LabHost) -> Served:
    """The agent of a lab, after both VPCs were there once: their lock files stay."""
    nics = [nic(vpc, subnet, net=net, vni=vni, position=net) for vpc, subnet, net, vni in NETS]
    assert lab.api("POST", "/v1/vms", vm(1, *nics)).status == 201
    for vpc, *_ in NETS:  # and their uplinks
        assert lab.api("PUT", f"/v1/vpcs/{vpc}", {"uplink": "nat"}).status == 200
        assert lab.api("DELETE", f"/v1/vpcs/{vpc}").status == 204
    served = Served(lab, lab.api("GET", "/openapi.json").json)
    served.clear()
    return served

"""Lives of VMs, made up: create, look, change, power, delete, in any order; a model says what each answer must be.

The model is a few lines: it knows no libvirt and no namespace, only what docs/api.md promises. After each step all that
the API tells of VMs, VPCs and subnets is compared with it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.e2e.fuzz.bodies import KEY, RULES
from tests.e2e.fuzz.oracle import check
from tests.e2e.fuzz.routes import Json, routes_of
from tests.e2e.fuzz.sent import Request
from tests.e2e.fuzz.served import CANARY, IDS, NETS, Served
from tests.e2e.specs import nic
from tests.lab.host import Answer

pytestmark = pytest.mark.e2e

LIVES, STEPS = 10, 25
MANY_LIVES = 100

NEEDS = {
    "start": {"running": "running", "stopped": "running"},
    "shutdown": {"running": "running"},  # asked of a guest that has no system to hear it
    "stop": {"running": "stopped", "paused": "stopped", "stopped": "stopped"},
    "reboot": {"running": "running"},
    "reset": {"running": "running", "paused": "paused"},
    "pause": {"running": "paused", "paused": "paused"},
    "resume": {"paused": "running", "running": "running"},
}
"""What each action makes of each state; what is not here is refused."""

WISHES = {"start": "running", "stop": "stopped", "shutdown": "stopped"}
LIVE = ("rules", "keys", "user_data")
"""What reaches a running guest at once."""


@dataclass(frozen=True, slots=True)
class Life:
    """What the model knows of a VM. ``applied``: what its guest was started with; None: it does not run."""

    spec: Json
    applied: Json | None
    revision: int = 1
    state: str = "running"
    wanted: str = "running"

    @property
    def carried(self) -> Json:
        """Whose networks are on the host."""
        return self.applied or self.spec

    @property
    def drift(self) -> set[str]:
        """The fields in which the guest is not as it should be."""
        return set() if self.applied is None else {name for name in self.spec if self.spec[name] != self.applied[name]}

    def addresses(self) -> set[tuple[str, str]]:
        """What other VMs cannot have: what it wants and what its guest has."""
        return {(one["netname"], one["ipv4"]) for spec in (self.spec, self.applied) if spec for one in spec["networks"]}

    def changed(self, spec: Json) -> Life:
        """After a PUT of another spec."""
        applied = self.applied and {**self.applied, **{name: spec[name] for name in LIVE}}
        return dataclasses.replace(self, spec=spec, applied=applied, revision=self.revision + 1)

    def acted(self, action: str, state: str) -> Life:
        """After an action that led to a state."""
        applied = None if state == "stopped" else self.carried
        return dataclasses.replace(self, state=state, applied=applied, wanted=WISHES.get(action, self.wanted))


@st.composite
def specs(draw: st.DrawFn, number: int) -> Json:
    """A whole spec for one of the VMs: each field is there, so equal documents are equal specs."""
    used = draw(st.sampled_from([NETS[:1], NETS[:1], NETS[1:], NETS]))
    host = draw(st.sampled_from([4 + number] * 4 + [9]))
    return {
        "id": IDS[number],
        "memory_mb": draw(st.sampled_from([32, 48])),
        "cpus": 1,
        "networks": [nic(v, s, net=net, vni=vni, host=host, position=i) for i, (v, s, net, vni) in enumerate(used)],
        "rules": draw(st.sampled_from([[], [RULES[0]], [RULES[1], RULES[3]]])),
        "keys": draw(st.sampled_from([[], [KEY]])),
        "user_data": draw(st.sampled_from([None, CANARY])),
        "datasource": draw(st.sampled_from([None, None, None, "openstack", "ec2"])),
    }


numbers = st.integers(0, len(IDS) - 1)
numbered = numbers.flatmap(lambda number: specs(number))
conditions = st.sampled_from(["", "", "", "right", "wrong", "any"])


class Lives(RuleBasedStateMachine):
    """All that is done to the VMs of one agent. ``served`` is set by the test."""

    served: Served

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, Life] = {}
        self.routes = {route.key: route for route in routes_of(self.served.document)}

    def ask(self, route: str, path: str, body: Json | None = None, **headers: str) -> Answer:
        """Send a request, and have the answer checked as every answer is."""
        method = route.split()[0]
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.served.lab.api(method, path, body, timeout=120, **headers)
        check(self.served, self.routes[route], Request(method, path, sent, str(body).encode()), answer)
        return answer

    def condition(self, vm: str, kind: str) -> tuple[dict[str, str], bool]:
        """An If-Match of this kind, and whether it holds."""
        revision = self.there[vm].revision if vm in self.there else 1
        match kind:
            case "right":
                return {"If_Match": f'"{revision}"'}, vm in self.there
            case "wrong":
                return {"If_Match": f'"{revision + 1}", W/"{revision}"'}, False
            case "any":
                return {"If_Match": "*"}, vm in self.there
        return {}, True

    def refusal(self, spec: Json, *, create_only: bool = False) -> int:
        """The status that a put of this spec is refused with; 0: it is not."""
        old = self.there.get(spec["id"])
        if old is not None and old.spec == spec:
            return 0
        others = [life.addresses() for vm, life in self.there.items() if vm != spec["id"]]
        mine = {(one["netname"], one["ipv4"]) for one in spec["networks"]}
        ec2 = old is not None and (old.spec["datasource"] == "ec2") != (spec["datasource"] == "ec2")
        return 409 if ec2 or any(mine & taken for taken in others) or (create_only and old is not None) else 0

    def settled(self, spec: Json, answer: Answer, refused: int) -> None:
        """Compare the answer to a put, and note what it did."""
        old = self.there.get(spec["id"])
        wanted = refused or (201 if old is None else 200)
        assert answer.status == wanted, (spec, old, answer.status, answer.text)
        if refused:
            return
        outcome = "created" if old is None else "unchanged" if old.spec == spec else "changed"
        now = Life(spec, spec) if old is None else old if old.spec == spec else old.changed(spec)
        self.there[spec["id"]] = now
        assert (answer.json["outcome"], answer.json["revision"]) == (outcome, now.revision)
        assert {path.split("[")[0] for path in answer.json["restart_needed"]} == now.drift

    @rule(spec=numbered, kind=conditions)
    def put(self, spec: Json, kind: str) -> None:
        headers, holds = self.condition(spec["id"], kind)
        answer = self.ask("PUT /v1/vms/{id}", f"/v1/vms/{spec['id']}", spec, **headers)
        self.settled(spec, answer, self.refusal(spec) if holds else 412)

    @rule(spec=numbered)
    def post(self, spec: Json) -> None:
        self.settled(spec, self.ask("POST /v1/vms", "/v1/vms", spec), self.refusal(spec, create_only=True))

    @rule(spec=numbered, fields=st.sets(st.sampled_from(["memory_mb", "networks", *LIVE])))
    def change(self, spec: Json, fields: set[str]) -> None:
        """Put what is there again, with some fields of another spec."""
        if spec["id"] in self.there:
            spec = {**self.there[spec["id"]].spec, **{name: spec[name] for name in sorted(fields)}}
            self.settled(spec, self.ask("PUT /v1/vms/{id}", f"/v1/vms/{spec['id']}", spec), self.refusal(spec))

    @rule(spec=numbered)
    def plan(self, spec: Json) -> None:
        old, refused = self.there.get(spec["id"]), self.refusal(spec)
        answer = self.ask("POST /v1/plan", "/v1/plan", spec)
        assert answer.status == (refused or 200), (spec, old, answer.text)
        if not refused:
            outcome = "created" if old is None else "unchanged" if old.spec == spec else "changed"
            assert answer.json["outcome"] == outcome

    @rule(number=numbers, action=st.sampled_from(sorted(NEEDS)), kind=conditions)
    def act(self, number: int, action: str, kind: str) -> None:
        self.act_on(IDS[number], action, kind)

    def act_on(self, vm: str, action: str, kind: str) -> None:
        """Ask for an action, compare the answer, and note what it did."""
        headers, holds = self.condition(vm, kind)
        answer = self.ask("POST /v1/vms/{id}/{action}", f"/v1/vms/{vm}/{action}", None, **headers)
        life = self.there.get(vm)
        state = NEEDS[action].get(life.state) if life else None
        wanted = 404 if life is None else 412 if not holds else 200 if state else 409
        assert answer.status == wanted, (action, life, answer.text)
        if life and state and holds:
            self.there[vm] = life.acted(action, state)

    @rule(number=numbers, which=st.integers(0, 6))
    def act_rightly(self, number: int, which: int) -> None:
        if life := self.there.get(IDS[number]):
            possible = [action for action in sorted(NEEDS) if life.state in NEEDS[action]]
            self.act_on(IDS[number], possible[which % len(possible)], "")

    @rule(number=numbers, kind=conditions)
    def delete(self, number: int, kind: str) -> None:
        vm = IDS[number]
        headers, holds = self.condition(vm, kind)
        answer = self.ask("DELETE /v1/vms/{id}", f"/v1/vms/{vm}", None, **headers)
        assert answer.status == (404 if vm not in self.there else 204 if holds else 412), answer.text
        if holds:
            self.there.pop(vm, None)

    @invariant()
    def what_is_told_is_so(self) -> None:
        """Every VM with its spec, state and addresses; every VPC and subnet with its members."""
        told = {one["id"]: one for one in self.served.vms()}
        assert sorted(told) == sorted(self.there)
        for vm, life in self.there.items():
            alike(told[vm], life)
            assert self.ask("GET /v1/vms/{id}", f"/v1/vms/{vm}").json["revision"] == life.revision
        self.members("vpc", "netname")
        self.members("subnet", "subnetname")

    def members(self, noun: str, field: str) -> None:
        """The VMs of each VPC or subnet are those that carry it."""
        wanted: dict[str, set[str]] = {}
        for vm, life in self.there.items():
            for one in life.carried["networks"]:
                wanted.setdefault(one[field], set()).add(vm)
        told = self.ask(f"GET /v1/{noun}s", f"/v1/{noun}s").json["items"]
        assert {one["name"]: set(one["vms"]) for one in told} == wanted

    def teardown(self) -> None:
        """The next life begins on an empty host."""
        self.served.clear()


def alike(told: Json, life: Life) -> None:
    """What the agent tells of a VM is what the model knows."""
    assert (told["state"], told["wanted"], told["revision"]) == (life.state, life.wanted, life.revision), (told, life)
    assert {path.split("[")[0] for path in told["drift"]} == life.drift
    assert told["has_user_data"] == (life.spec["user_data"] is not None)
    for name in ("memory_mb", "cpus", "keys", "datasource"):
        assert told[name] == life.spec[name]
    assert [one["addresses"][0] for one in told["ports"]] == [one["ipv4"] for one in life.carried["networks"]]
    assert (told["pid"] is None) == (life.state == "stopped")


def live(served: Served, lives: int, steps: int, number: int) -> None:
    """So many lives of so many steps; the same for the same ``number``."""
    print(f"{lives} lives, --fuzz-seed {number}")
    before = served.lab.snapshot()
    machine = seed(number)(type("LivesHere", (Lives,), {"served": served}))
    how = settings(
        max_examples=lives, stateful_step_count=steps, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=how)
    print(served.told())
    assert before.difference(served.lab.snapshot()) == {}
    assert CANARY not in served.lab.agent_log(1 << 30)


def test_lives_go_as_the_model_says(served: Served, fuzz_seed: int) -> None:
    live(served, LIVES, STEPS, fuzz_seed)


@pytest.mark.slow
@pytest.mark.fuzz
def test_many_lives_go_as_the_model_says(served: Served, fuzz_seed: int) -> None:
    live(served, MANY_LIVES, 2 * STEPS, fuzz_seed + 1)

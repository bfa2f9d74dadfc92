"""The index: claims follow entries, changes are whole, and readers get what the network must carry."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lvagent.agent.index import Entry, Index, Phase
from lvagent.errors import Conflict
from lvagent.spec.conflicts import Claims
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig
from tests.e2e.specs import nic, vm
from tests.unit.agent.fakes import OFF, ON

ONE, TWO = "i-0000000001", "i-0000000002"
A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"


def spec(number: int, host: int = 5, *, vpc: str = A, **more: object) -> VmConfig:
    place = nic(vpc, "subnet-" + vpc[4:], net=0 if vpc == A else 1, vni=0, host=host)
    return parse_vm(vm(number, place, **more))


def live(one: VmConfig, applied: VmConfig | None = None, **more: Any) -> Entry:  # noqa: ANN401 - fields
    return Entry(one, Phase.LIVE, applied=applied, **more)


def refused(index: Index, one: VmConfig) -> str | None:
    try:
        index.check(one)
    except Conflict as error:
        return error.other
    return None


def test_a_claim_is_seen_by_the_next_and_ends_with_its_entry() -> None:
    index = Index()
    index.claim(Entry(spec(1), Phase.CREATING))
    with pytest.raises(Conflict) as caught:
        index.claim(Entry(spec(2), Phase.CREATING))
    assert (caught.value.other, [one.spec.id for one in index.all()]) == (ONE, [ONE])
    index.drop(ONE)
    index.claim(Entry(spec(2), Phase.CREATING))
    assert (index.get(ONE), index.get(TWO)) == (None, Entry(spec(2), Phase.CREATING))


def test_an_id_is_claimed_once() -> None:
    index = Index()
    index.claim(Entry(spec(1), Phase.CREATING))
    with pytest.raises(Conflict, match="exists"):
        index.claim(Entry(spec(1), Phase.CREATING))


def test_what_is_deleting_still_claims() -> None:
    index = Index()
    index.adopt(dataclasses.replace(live(spec(1)), phase=Phase.DELETING))
    assert refused(index, spec(2)) == ONE


def test_wish_applied_and_former_are_claimed_each() -> None:
    index = Index()
    index.adopt(live(spec(1, 5), applied=spec(1, 6), former=spec(1, 7)))
    assert [refused(index, spec(2, host)) for host in (5, 6, 7, 8)] == [ONE, ONE, ONE, None]
    index.update(ONE, lambda now: dataclasses.replace(now, applied=now.spec, former=None))
    assert [refused(index, spec(2, host)) for host in (5, 6, 7, 8)] == [ONE, None, None, None]
    index.drop(ONE)
    assert refused(index, spec(2, 5)) is None


def test_a_change_that_contradicts_another_changes_nothing() -> None:
    index = Index()
    index.adopt(live(spec(1, 5)))
    index.adopt(live(spec(2, 6)))
    with pytest.raises(Conflict):
        index.update(TWO, lambda now: dataclasses.replace(now, spec=spec(2, 5)))
    assert index.get(TWO) == live(spec(2, 6))
    back = index.update(TWO, lambda now: dataclasses.replace(now, spec=spec(2, 5)), checked=False)
    assert back == index.get(TWO) == live(spec(2, 5))


def test_a_change_of_what_is_gone_is_none() -> None:
    assert Index().update(ONE, lambda now: now) is None


def test_members_are_what_guests_run_with_else_the_wish() -> None:
    index = Index()
    index.adopt(live(spec(2, 6)))
    index.adopt(live(spec(1, 5, vpc=B), applied=spec(1, 5)))
    assert (index.members(A), index.members(B)) == ((spec(1, 5), spec(2, 6)), ())
    assert index.vpcs() == {A}


def test_what_libvirt_says_sets_what_is_applied() -> None:
    index = Index()
    index.adopt(live(spec(1, 5)))
    index.observed(ONE, ON)
    index.update(ONE, lambda now: dataclasses.replace(now, spec=spec(1, 6)))
    index.observed(ONE, ON)
    running = index.get(ONE)
    index.observed(ONE, OFF)
    stopped = index.get(ONE)
    index.observed(ONE, None)
    gone = index.get(ONE)
    assert running
    assert stopped
    assert gone
    assert (running.applied, running.domain) == (spec(1, 5), ON)
    assert (stopped.applied, stopped.domain, gone.applied, gone.domain) == (None, OFF, None, None)


def test_an_answer_to_an_older_question_says_nothing() -> None:
    index = Index()
    index.adopt(live(spec(1), applied=spec(1), domain=ON, observed_at=100.0))
    index.observed(ONE, OFF, asked_at=99.0)
    assert index.get(ONE) == live(spec(1), applied=spec(1), domain=ON, observed_at=100.0)
    index.observed(ONE, OFF, asked_at=100.0)
    found = index.get(ONE)
    assert found
    assert (found.applied, found.domain) == (None, OFF)


def test_only_a_vm_that_runs_or_is_being_made_stands_against_a_start() -> None:
    index = Index()
    index.adopt(live(spec(1)))
    index.check_start(spec(2))
    for entry in (live(spec(1), applied=spec(1)), Entry(spec(1), Phase.CREATING)):
        index.adopt(entry)
        index.check_start(spec(1))
        with pytest.raises(Conflict) as caught:
            index.check_start(spec(2))
        assert caught.value.other == ONE


def test_a_volume_that_another_has_is_shared_whether_wished_applied_or_former() -> None:
    disks = [{"path": f"/v/{number}.qcow2", "position": number, "size_gb": 1} for number in range(4)]
    index = Index()
    index.adopt(live(spec(1, 5, volumes=disks)))
    index.adopt(
        live(
            spec(2, 6, volumes=[{**disks[0], "position": 0}]),
            applied=spec(2, 6, volumes=[{**disks[1], "position": 0}]),
            former=spec(2, 6, volumes=[{**disks[2], "position": 0}]),
        )
    )
    assert index.unshared(ONE, [f"/v/{number}.qcow2" for number in range(4)]) == ("/v/3.qcow2",)


SPECS = {(number, host): spec(number, host) for number in (1, 2, 3, 4, 9) for host in range(5, 9)}
numbers, octets = st.integers(1, 4), st.integers(5, 8)


class Life(RuleBasedStateMachine):
    """Any sequence of what may happen to entries; the claims are always those of the entries that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.model: dict[str, Entry] = {}

    @rule(number=numbers, host=octets)
    def claim(self, number: int, host: int) -> None:
        entry = Entry(SPECS[number, host], Phase.CREATING)
        taken = entry.spec.id in self.model or _clash(self.model, entry.spec)
        try:
            self.index.claim(entry)
        except Conflict:
            assert taken
        else:
            assert not taken
            self.model[entry.spec.id] = entry

    @rule(number=numbers, host=octets, applied=octets | st.none(), former=octets | st.none())
    def adopt(self, number: int, host: int, applied: int | None, former: int | None) -> None:
        kept = [None if one is None else SPECS[number, one] for one in (applied, former)]
        entry = Entry(SPECS[number, host], Phase.LIVE, applied=kept[0], former=kept[1])
        self.index.adopt(entry)
        self.model[entry.spec.id] = entry

    @rule(number=numbers, active=st.booleans())
    def observe(self, number: int, active: bool) -> None:
        vm_id = f"i-{number:010}"
        self.index.observed(vm_id, ON if active else OFF)
        found = self.index.get(vm_id)
        if vm_id in self.model:
            assert found is not None
            old = self.model[vm_id]
            applied = (old.applied or old.spec) if active else None
            assert found == dataclasses.replace(
                old, applied=applied, domain=ON if active else OFF, observed_at=found.observed_at
            )
            self.model[vm_id] = found
        else:
            assert found is None

    @rule(number=numbers)
    def drop(self, number: int) -> None:
        self.index.drop(f"i-{number:010}")
        self.model.pop(f"i-{number:010}", None)

    @invariant()
    def claims_are_those_of_the_entries(self) -> None:
        assert self.index.all() == tuple(self.model[one] for one in sorted(self.model))
        for host in range(5, 9):
            probe = SPECS[9, host]
            assert (refused(self.index, probe) is not None) == _clash(self.model, probe)


def _clash(model: dict[str, Entry], one: VmConfig) -> bool:
    for entry in model.values():
        for said in (entry.spec, entry.applied, entry.former):
            try:
                Claims([said] if said else []).check(one)
            except Conflict:
                return True
    return False


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@given(st.permutations([1, 2, 3]))
def test_all_are_told_by_id(order: list[int]) -> None:
    index = Index()
    for number in order:
        index.adopt(live(spec(number, 4 + number)))
    assert [one.spec.id for one in index.all()] == [f"i-{number:010}" for number in (1, 2, 3)]

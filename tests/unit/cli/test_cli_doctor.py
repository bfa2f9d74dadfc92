"""``lvagent doctor`` and ``lvagent why`` from the command line: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lvagent.commands import doctor
from lvagent.doctor import examine, repair
from lvagent.doctor.findings import Finding, Kind, Repair, failed, passed, unknown, warned
from lvagent.errors import HostError
from lvagent.spec.status import TimelineEntry
from tests.unit.api.specs import vm
from tests.unit.cli.shell import Shell

LINK = Repair(Kind.LINK, "lvx999")
SWEEP = Repair(Kind.SWEEP)
BAD = [failed("links", "lvx999 is\x1b nobody's", "", LINK), failed("vpc-aaaaaaaaaa", "missing", "look", SWEEP)]
WELL = [passed("libvirt", "answers"), warned("clock", "nobody keeps it", "chrony")]


def examined(monkeypatch: pytest.MonkeyPatch, *looks: list[Finding]) -> None:
    """A host whose looks are told one after the other."""
    left = list(looks)
    monkeypatch.setattr(examine, "examine", lambda _settings: left.pop(0))


def make_repairs(monkeypatch: pytest.MonkeyPatch, do: Callable[[Repair], object]) -> None:
    monkeypatch.setattr(repair.Repairer, "do", lambda _self, one: do(one))


@pytest.mark.parametrize(
    ("found", "code"),
    [(WELL, 0), ([*WELL, *BAD], 1), ([*WELL, unknown("libvirt", "is away")], 2)],
)
def test_findings_and_exit_codes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, found: list[Finding], code: int
) -> None:
    examined(monkeypatch, found, found, found)
    said = shell.run("doctor")
    assert said.exit_code == code
    assert "PASS    libvirt: answers" in said.stdout
    assert "WARN    clock: nobody keeps it\n        -> chrony" in said.stdout
    assert "\x1b" not in said.stdout
    assert "PASS    libvirt" not in shell.run("doctor", "-q").stdout
    told = json.loads(shell.run("doctor", "-o", "json").stdout)
    assert [one["level"] for one in told["findings"]] == [str(one.level) for one in found]
    assert (told["repairs"], told["done"]) == ([], [])


def test_a_dry_run_does_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    examined(monkeypatch, BAD)
    done: list[Repair] = []
    make_repairs(monkeypatch, done.append)
    said = shell.run("doctor", "--fix")
    assert done == []
    assert said.exit_code == 1
    assert "this would be done:\n  delete the link lvx999 in the root namespace\n  sweep:" in said.stdout
    assert "nothing was done; --fix --yes does it" in said.stdout


def test_repairs_are_made_in_order_and_looked_at_again(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Repair] = []
    examined(monkeypatch, BAD, WELL)
    make_repairs(monkeypatch, done.append)
    said = shell.run("doctor", "--fix", "--yes")
    assert (said.exit_code, done) == (0, [LINK, SWEEP])
    assert said.stdout.endswith("what is left:\nWARN    clock: nobody keeps it\n        -> chrony\n1 PASS, 1 WARN\n")


def test_a_repair_that_fails_keeps_no_other_from_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    examined(monkeypatch, BAD, BAD)

    def refuse(one: Repair) -> None:
        if one == LINK:
            raise HostError("lvx999", "remove", "busy", hint="try again")

    make_repairs(monkeypatch, refuse)
    said = shell.run("-o", "json", "doctor", "--fix", "--yes")
    assert said.exit_code == 1
    assert [one["error"] for one in json.loads(said.stdout)["done"]] == ["cannot remove lvx999: busy (try again)", ""]


def test_a_sweep_is_asked_of_the_agent_that_runs(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    examined(monkeypatch, [failed("x", "y", "", SWEEP)], WELL)
    assert shell.run("doctor", "--fix", "--yes").exit_code == 0
    assert shell.agent.calls == [("sweep force=False", "")]
    shell.agent.held = "nothing is removed: 300 objects would go"
    examined(monkeypatch, [failed("x", "y", "", SWEEP)], BAD)
    said = shell.run("-o", "json", "doctor", "--fix", "--yes")
    assert "300 objects would go" in json.loads(said.stdout)["done"][0]["error"]
    shell.agent.ready = False
    examined(monkeypatch, [failed("x", "y", "", SWEEP)], BAD)
    said = shell.run("-o", "json", "doctor", "--fix", "--yes")
    assert "a sweep is not available" in json.loads(said.stdout)["done"][0]["error"]


def test_nothing_to_repair(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    examined(monkeypatch, WELL)
    assert "there is nothing that --fix could repair" in shell.run("doctor", "--fix", "--yes").stdout


def test_who_cannot_see(shell: Shell) -> None:
    said = shell.run("doctor", is_root=False)
    assert (said.exit_code, said.stderr.splitlines()[0]) == (
        doctor.CANNOT,
        "error: only root sees what there is to check",
    )
    assert shell.run("--url", "https://192.0.2.1:7443", "doctor").exit_code == 1


def test_why(shell: Shell) -> None:
    name = "i-0000000001"
    told = {"what": "delete", "outcome": "done", "ms": {}}
    ended = TimelineEntry("2026-11-26T12:00:01.000+00:00", "operation", (), told)
    assert shell.run("why", name).exit_code == 3
    shell.agent.told[name] = (ended,)
    said = shell.run("why", name).stdout.splitlines()
    assert said == [
        "2026-11-26T12:00:01.000+00:00  operation   what delete, outcome done",
        f"{name}: it was deleted at 2026-11-26T12:00:01.000+00:00",
    ]
    assert shell.run("vm", "create", "-f", "-", stdin=json.dumps(vm()).encode()).exit_code == 0
    found = json.loads(shell.run("why", name, "-o", "json").stdout)
    assert (found["vm"], len(found["timeline"])) == (name, 1)
    assert found["what"] == "it runs, but no rule lets SSH in"
    assert shell.run("why", name, "--tail", "0").stdout.startswith(f"{name}: ")

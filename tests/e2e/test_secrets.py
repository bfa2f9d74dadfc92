"""User data and keys that were sent by mistake are nowhere but where they belong, whatever happens to a VM."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.specs import Spec, nic, vm
from tests.lab.host import Answer, LabHost

pytestmark = pytest.mark.e2e

PLACES = ("run/lvagent", "var/lib/lvagent", "var/log", "etc/lvagent", "etc/libvirt", "run/libvirt")
OWN = "/etc/libvirt/secrets/"
"""Where libvirt keeps what it was given, for root alone."""


def spellings(word: str) -> list[bytes]:
    """A word as it may be found: plain, in hexadecimal, and within base64 at each of three offsets."""
    raw = word.encode()
    coded = [base64.b64encode(b"x" * offset + raw).decode()[4 if offset else 0 : -4].encode() for offset in range(3)]
    return [raw, raw.hex().encode(), *coded]


class Canary:
    """A lab whose agent logs all it can, and words that must not be found in it."""

    def __init__(self, lab: LabHost) -> None:
        self.lab = lab
        self.words = [f"canary{secrets.token_hex(12)}" for _ in range(4)]
        self.answers: list[Answer] = []

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Call the API and keep what it says."""
        answer = self.lab.api(method, path, body, **headers)
        self.answers.append(answer)
        return answer

    def put(self, spec: Spec, **headers: str) -> Answer:
        return self.call("PUT", f"/v1/vms/{spec['id']}", spec, **headers)

    def found(self) -> list[str]:
        """The places where one of the words is."""
        needles = [needle for word in self.words for needle in spellings(word)]
        return [place for place, raw in self._texts() if any(needle in raw for needle in needles)]

    def _texts(self) -> Iterator[tuple[str, bytes]]:
        for number, answer in enumerate(self.answers):
            yield f"answer {number}: {answer.status}", answer.body + json.dumps(dict(answer.headers)).encode()
        for options in (["--inactive"], ["--security-info"], []):
            for name in self.lab.virsh("list", "--all", "--name").stdout.split():
                yield f"dumpxml {name}", self.lab.virsh("dumpxml", *options, name).stdout.encode()
        for place in PLACES:
            for folder, folders, names in os.walk(self.lab.path(place)):
                folders[:] = [name for name in folders if name != "images"]  # large, and the machine's
                yield from self._files(Path(folder), names)
        for pid in filter(str.isdigit, os.listdir(self.lab.path("/proc"))):
            yield from self._files(self.lab.path(f"/proc/{pid}"), ["cmdline", "environ", "comm"])

    def _files(self, folder: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            path = folder / name
            if path.is_file() and not path.is_symlink():
                try:
                    raw = path.read_bytes()
                except OSError:  # a process that has ended
                    continue
                yield f"/{path.relative_to(self.lab.root)}", raw


@pytest.fixture
def canary(agent_lab: LabHost) -> Iterator[Canary]:
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent({"LVAGENT_LOG": "DEBUG", "LVAGENT_SWEEP_INTERVAL": "1"})
    yield Canary(agent_lab)
    agent_lab.kill_agent(signal.SIGTERM)
    agent_lab.start_agent()


def test_a_word_is_found_where_it_is(canary: Canary) -> None:
    """The search itself: each place and each spelling."""
    for place in ("/run/lvagent/seen", "/var/log/seen", "/var/lib/lvagent/state/seen"):
        for needle in spellings(canary.words[0]):
            canary.lab.path(place).write_bytes(b"<" + needle + b">")
            assert canary.found() == [place]
        canary.lab.path(place).unlink()
    sleeper = canary.lab.popen(["sleep", "1000"], env={"X": canary.words[1]})
    assert [place.rpartition("/")[2] for place in canary.found()] == ["environ"] * len(canary.found()) != []
    sleeper.kill()
    sleeper.wait()


def test_user_data_is_in_its_secret_alone(canary: Canary) -> None:
    one, two, three, four = canary.words
    script = f"#!/bin/sh\necho {one}\n"
    coded = {"base64": base64.b64encode(f"#!/bin/sh\necho {two}\n".encode()).decode()}
    assert canary.put(vm(1, user_data=script), Authorization=f"Bearer {four}").status == 201
    assert script in secret_of(canary.lab)
    assert canary.put(vm(1, user_data=coded)).status == 200
    assert canary.call("POST", "/v1/plan", vm(2, nic(host=6), user_data=f"x{three}")).status == 200
    assert canary.put(vm(2, nic(host=5), user_data=f"x{three}")).status == 409
    for path in ("/v1/vms", "/v1/vms/i-0000000001", "/v1/vms/i-0000000001/domain.xml", "/v1/operations", "/v1/vpcs"):
        assert canary.call("GET", path).status == 200
    for action in ("stop", "start"):
        assert canary.call("POST", f"/v1/vms/i-0000000001/{action}").status == 200
    assert {place for place in canary.found() if not place.startswith(OWN)} == set()
    held = [canary.lab.path(place) for place in canary.found()]
    assert held
    assert {path.stat().st_mode & 0o077 for path in held} == {0}
    assert canary.call("DELETE", "/v1/vms/i-0000000001").status == 204
    assert canary.found() == []


def secret_of(lab: LabHost) -> str:
    """What libvirt keeps for the VM."""
    (row,) = [row for row in lab.virsh("secret-list").stdout.splitlines() if "i-0000000001" in row]
    return lab.virsh("secret-get-value", "--plain", row.split()[0]).stdout


def test_what_fails_says_nothing_of_it(canary: Canary) -> None:
    one, two, three, four = canary.words
    private = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{two}\n-----END OPENSSH PRIVATE KEY-----"
    wrong = (
        vm(1, user_data={"base64": f"{one}!"}),
        vm(1, user_data=[one]),
        vm(1, user_data={"base64": one, "more": one}),
        vm(1, user_data=one * 4000),
        vm(1, keys=[private]),
        vm(1, keys=[f"ssh-ed25519 {two}"]),
        vm(1, user_data=one, memory_mb="much"),
        vm(1, user_data=one, volumes=[{"path": "/etc/shadow", "position": 0}]),
        vm(1, user_data=one, volumes=[{"path": "/var/lib/lvagent/volumes/a.qcow2", "position": 0, "image": "nothing"}]),
    )
    assert {canary.put(spec).status for spec in wrong} == {422}
    for raw in (f'{{"user_data": "{three}', f'{{"user_data": "{three}\\ud800"}}', f'["{three}", NaN]', f"{three}"):
        assert canary.call("PUT", "/v1/vms/i-0000000001", raw.encode()).status == 422
    assert canary.call("GET", "/v1/vms", Authorization=f"Basic {four}").status in (200, 401)
    assert canary.found() == []


def test_a_create_that_breaks_off_leaves_nothing_of_it(canary: Canary) -> None:
    one = canary.words[0]
    hook = canary.lab.path("/etc/libvirt/hooks/qemu.d/lvagent")
    proper = hook.read_text()
    hook.write_text("#!/bin/sh\necho refused >&2\nexit 1\n")
    try:
        assert canary.put(vm(1, user_data=f"#!/bin/sh\n{one}\n")).status == 500
    finally:
        hook.write_text(proper)
    assert canary.found() == []
    assert canary.put(vm(1, user_data=f"#!/bin/sh\n{one}\n")).status == 201
    canary.lab.kill_libvirtd()
    assert canary.put(vm(1, user_data=f"#!/bin/sh\n{one} again\n")).status == 503
    canary.lab.kill_agent()
    canary.lab.start_libvirtd()
    canary.lab.start_agent({"LVAGENT_LOG": "DEBUG"})
    assert {place for place in canary.found() if not place.startswith(OWN)} == set()
    assert canary.call("DELETE", "/v1/vms/i-0000000001").status == 204
    assert canary.found() == []

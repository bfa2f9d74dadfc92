"""``lvagent explain``: in words, as JSON, and with exit codes that scripts can tell."""

from __future__ import annotations

import json

import pytest

from lvagent.spec import names
from tests.unit.api.test_api_explain import ONE, TWO, numbered
from tests.unit.cli.shell import Shell

ASK = ("explain", "--from", ONE, "--to", TWO)


@pytest.fixture
def two(shell: Shell) -> Shell:
    """Two VMs that let SSH in."""
    for number in (1, 2):
        shell.run("vm", "create", "-f", "-", stdin=json.dumps(numbered(number)).encode())
    return shell


def test_what_is_allowed(two: Shell) -> None:
    done = two.run(*ASK, "--port", "22")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "tcp 22  10.0.0.5 -> 10.0.0.6",
        f"  guest     {ONE} sends it from 10.0.0.5, by its NIC 0 in subnet-aaaaaaaaaa",
        f"  port      the port is bound to 10.0.0.5 and {names.nic_mac(ONE, 0)}",
        f"  egress    {ONE} has no egress rules: it may begin anything",
        "  route     10.0.0.6 is on the sender's own link",
        f"  ingress   rules[0] of {TWO} allows it: ingress tcp 22, from any to any",
        "  arrival   it arrives at t0000000002-0",
        f"allowed: rules[0] of {TWO} allows it: ingress tcp 22, from any to any",
    ]


def test_what_is_refused(two: Shell) -> None:
    done = two.run(*ASK, "--proto", "icmp")
    assert done.exit_code == 1
    last = f"no ingress rule of {TWO} allows icmp from 10.0.0.5"
    assert done.stdout.splitlines()[-2:] == [f"x ingress   {last}", f"refused: {last}"]
    assert json.loads(two.run(*ASK, "--proto", "icmp", "-o", "json").stdout)["verdict"] == "refused"


def test_live(two: Shell) -> None:
    done = two.run(*ASK, "--port", "22", "--live")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-2:] == [f"live  {TWO} has it", "by    root: x drop"]
    two.agent.arrives = False
    done = two.run(*ASK, "--port", "22", "--live")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("-> the host does not do what is wanted of it")
    assert ("explain", ONE) in two.agent.calls


def test_what_is_asked_wrongly(two: Shell) -> None:
    assert two.run("explain", "--from", ONE).exit_code == 2
    assert two.run(*ASK).exit_code == 1
    assert two.run("explain", "--from", ONE, "--to", "i-0000000009", "--port", "22").exit_code == 3

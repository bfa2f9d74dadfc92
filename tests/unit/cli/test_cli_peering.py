"""``lvagent peering``."""

from __future__ import annotations

import json

from tests.unit.cli.shell import Shell

A, B = "vpc-aaaaaaaaaa", "vpc-bbbbbbbbbb"
SHOWN = f"""\
peering            {A}/{B}
state              waiting
reason             there is no VM in {A}
in {A}  10.0.0.0/24
"""
LISTED = f"""\
A               B               STATE    REASON
{A}  {B}  waiting  there is no VM in {A}
"""


def test_its_life(shell: Shell) -> None:
    assert shell.run("peering", "ls").stdout == "there are no peerings\n"
    assert shell.run("peering", "add", B, A).stdout == SHOWN
    assert shell.run("peering", "show", A, B).stdout == SHOWN
    assert shell.run("peering", "list").stdout == LISTED
    assert json.loads(shell.run("peering", "ls", "-o", "json").stdout)[0]["b"] == B
    assert shell.run("peering", "rm", B, A).stdout == f"{B} and {A} are not peered\n"
    gone = shell.run("peering", "rm", B, A)
    assert (gone.exit_code, f"there is no peering {A}/{B}" in gone.stderr) == (3, True)


def test_a_conflict(shell: Shell) -> None:
    shell.agent.peers.taken.add(A)
    answer = shell.run("peering", "add", A, B)
    assert (answer.exit_code, "overlaps" in answer.stderr) == (4, True)

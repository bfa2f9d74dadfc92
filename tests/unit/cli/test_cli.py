"""The other commands, and the command line as a whole."""

from __future__ import annotations

import json

import click
import pytest

from lvagent.cli import COMMANDS, Root, root
from lvagent.commands.client import Client, Reply
from lvagent.commands.failure import Failure
from lvagent.commands.tables import print_table, size
from tests.unit.api.specs import vm
from tests.unit.cli.shell import Shell

SPEC = json.dumps(vm()).encode()


def test_vpcs_and_subnets(shell: Shell) -> None:
    assert shell.run("vpc", "ls").stdout == "there are no VPCs\n"
    assert shell.run("subnet", "ls").stdout == "there are no subnets\n"
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    assert shell.run("vpc", "ls").stdout == (
        "VPC             DOMAIN        SUBNETS  VMS\n"
        "vpc-aaaaaaaaaa  vpc.internal  1        1\n"
    )  # fmt: skip
    subnets = (
        "SUBNET             VPC             VNI  MTU   GATEWAYS                  VMS\n"
        "subnet-aaaaaaaaaa  vpc-aaaaaaaaaa  100  1450  10.0.0.1/24 fd00:a::1/64  1\n"
    )
    assert shell.run("subnet", "ls").stdout == subnets
    assert shell.run("vpc", "show", "vpc-aaaaaaaaaa").stdout == (
        "vpc        vpc-aaaaaaaaaa\n"
        "namespace  vpc-aaaaaaaaaa\n"
        "domain     vpc.internal\n"
        "uplink     none\n"
        "metadata   on\n"
        "vms        i-0000000001\n"
        "\n" + subnets
    )
    assert shell.run("subnet", "show", "subnet-aaaaaaaaaa").stdout == (
        "subnet    subnet-aaaaaaaaaa\n"
        "vpc       vpc-aaaaaaaaaa\n"
        "vni       100\n"
        "gateways  10.0.0.1/24, fd00:a::1/64\n"
        "mtu       1450\n"
        "vms       i-0000000001\n"
    )
    assert shell.run("vpc", "show", "vpc-bbbbbbbbbb").exit_code == 3
    for command in (["vpc", "ls"], ["subnet", "ls"]):
        assert json.loads(shell.run(*command, "-o", "json").stdout)[0]["vms"] == ["i-0000000001"]


def test_plan(shell: Shell) -> None:
    assert shell.run("plan", "-", stdin=SPEC).stdout == (
        "the VM would be created\n"
        "   1. make netns\n"
        "   2. start\n"
        "\n--- domain XML\n<domain><name>i-0000000001</name></domain>\n"
        "\n--- nft, vpc-aaaaaaaaaa\n# of vpc-aaaaaaaaaa\n"
        "\n--- dnsmasq, vpc-aaaaaaaaaa\n# of vpc-aaaaaaaaaa\n"
    )
    assert json.loads(shell.run("plan", "-", "-o", "json", stdin=SPEC).stdout)["outcome"] == "created"
    assert shell.run("plan", "/nonexistent.json").exit_code == 2
    assert shell.agent.calls == []


@pytest.mark.parametrize("name", ["ls", "list"])
def test_images(shell: Shell, name: str) -> None:
    assert shell.run("image", name).stdout == (
        "IMAGE   SIZE      FILE\n"
        "debian  2.0 GiB   400.0 MiB\n"
        "tiny    64.0 MiB  21.0 MiB\n"
    )  # fmt: skip


def test_the_agent_does_not_answer() -> None:
    def away(*_request: object) -> Reply:
        raise Failure("the agent does not answer on /x: away", code=5, hint="start it")

    with pytest.raises(Failure) as failure:
        Client(away).get("/v1/vms")
    assert failure.value.exit_code == 5


def test_what_is_no_agent_is_told() -> None:
    client = Client(lambda *_request: Reply(200, {}, b"<html>"))
    with pytest.raises(Failure, match="not that of an agent"):
        client.get("/v1/vms")


def test_wrong_settings_are_told_as_every_error(shell: Shell) -> None:
    shell.config.write_text("[api]\nsocket = 5\n")
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    refused = shell.run("vm", "console", "i-0000000001")
    assert (refused.exit_code, refused.stderr) == (1, "error: must be str, not int\nat: api.socket\n")


def test_every_command_is_there_and_helps() -> None:
    context = click.Context(root)
    assert isinstance(root, Root)
    for name, (_, about) in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert command.name in (name, "group")
        assert about.endswith(".")
    assert root.get_command(context, "nonsense") is None


def test_size() -> None:
    assert [size(count) for count in (0, 1023, 1024, 21 << 20, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "21.0 MiB",
        "5.0 TiB",
    ]


def test_a_table_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("x\x1b[2J", None), ("yy", "z\n")], empty="nothing")
    assert capsys.readouterr().out == "A      B\nx?[2J\nyy     z?\n"

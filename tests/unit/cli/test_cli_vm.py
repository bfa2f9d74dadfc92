"""``lvagent vm``: what is printed, where, and the exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lvagent.errors import HostError
from lvagent.spec.names import nic_mac
from lvagent.spec.publications import Publication, parse_publications
from lvagent.spec.status import State
from tests.unit.api.specs import full, vm
from tests.unit.cli.shell import Became, Shell

SPEC = json.dumps(vm()).encode()


def test_create_tells_each_phase_and_sums_up(shell: Shell) -> None:
    done = shell.run("vm", "create", "-f", "-", stdin=SPEC)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"  parse {10,}\d+\.\d ms", lines[0])
    assert lines[1:] == [
        "  check              0.1 ms",
        "  define             4.0 ms",
        "  wire               8.5 ms",
        "  start            500.2 ms",
        "i-0000000001 created, running",
        "  vpc-aaaaaaaaaa  subnet-aaaaaaaaaa  10.0.0.5/16  fd00:a::5/64",
        "  lvagent vm ssh i-0000000001",
    ]


def test_create_again_and_apply(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "vm.json"
    file.write_bytes(SPEC)
    shell.run("vm", "create", "-f", str(file))
    again = shell.run("vm", "create", "--file", str(file))
    assert (again.exit_code, again.stdout.splitlines()[1]) == (0, "i-0000000001 unchanged, running")
    file.write_text(json.dumps(vm(memory_mb=256)).replace('"id"', '"Id"'))
    refused = shell.run("vm", "create", "-f", str(file))
    assert (refused.exit_code, refused.stderr) == (
        4,
        "error: i-0000000001 exists with another spec\nat: id\nhint: PUT changes it\n",
    )
    changed = shell.run("vm", "apply", "-f", str(file))
    assert changed.exit_code == 0
    assert "i-0000000001 changed, running" in changed.stdout
    assert "  at its next start: memory_mb" in changed.stdout


def test_of_two_who_publish_at_once_neither_loses_his(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    told, faster = shell.agent.ports, iter(["8080", "8081"])

    def ports(vm: str) -> Sequence[Publication]:
        """Between the look and the change somebody else makes one."""
        found = told(vm)
        if port := next(faster, ""):
            shell.agent.put_ports(vm, (*found, *parse_publications([{"host_port": int(port)}])))
        return found

    monkeypatch.setattr(shell.agent, "ports", ports)
    made = shell.run("vm", "ports", "i-0000000001", "--add", "9000", "-o", "json")
    assert [one["host_port"] for one in json.loads(made.stdout)] == [8080, 8081, 9000]


def test_ports_are_published_shown_and_taken_away(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    ports = ("vm", "ports", "i-0000000001")
    assert shell.run(*ports).stdout == "nothing leads to i-0000000001\n"
    made = shell.run(*ports, "--add", "8080:80", "--add", "[2001:db8::1]:53/udp", "--source", "192.0.2.0/24")
    assert made.exit_code == 1
    assert "192.0.2.0/24 is not of the IP version of 2001:db8::1\nat: [1].sources\n" in made.stderr
    shell.run(*ports, "--add", "8080:80", "--source", "192.0.2.0/24")
    assert shell.run(*ports, "--add", "[2001:db8::1]:9000-9009/udp").stdout == (
        "PROTO  ADDRESS      PORT       VM PORT    SOURCES\n"
        "tcp    any          8080       80         192.0.2.0/24\n"
        "udp    2001:db8::1  9000-9009  9000-9009  any\n"
    )
    shown = shell.run("vm", "show", "i-0000000001").stdout
    assert "published  any:8080 to 80/tcp, 2001:db8::1:9000-9009 to 9000-9009/udp\n" in shown
    rules = [line.split() for line in shell.run("vm", "rules", "i-0000000001").stdout.splitlines()]
    assert [line[2] for line in rules if line[-1] == "published"] == ["80", "9000-9009"]
    assert len(json.loads(shell.run(*ports, "-o", "json").stdout)) == 2
    assert shell.run(*ports, "--remove", "8081").exit_code == 2
    assert shell.run(*ports, "--add", "80:x").exit_code == 2
    assert len(shell.run(*ports, "--remove", "8080").stdout.splitlines()) == 2
    assert shell.run(*ports, "--clear").stdout == "nothing leads to i-0000000001\n"
    assert shell.run(*ports, "--add", "22").exit_code == 4


def test_floating_addresses(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    assert shell.run("floating", "ls").stdout == "there are no floating addresses\n"
    made = shell.run("floating", "set", "192.0.2.50", "i-0000000001", "--interface", "eth0")
    assert made.stdout == "ADDRESS     VM            INTERFACE\n192.0.2.50  i-0000000001  eth0\n"
    assert shell.run("floating", "show", "192.0.2.50").stdout == made.stdout
    assert shell.run("floating", "set", "2001:db8::50", "i-0000000001").exit_code == 0
    assert json.loads(shell.run("floating", "ls", "-o", "json").stdout)[1] == {
        "address": "2001:db8::50",
        "vm": "i-0000000001",
        "interface": None,
    }
    assert "floating   192.0.2.50, 2001:db8::50\n" in shell.run("vm", "show", "i-0000000001").stdout
    assert shell.run("floating", "set", "192.0.2.66", "i-0000000001").exit_code == 4
    assert shell.run("floating", "rm", "192.0.2.50").stdout == "192.0.2.50 is free\n"
    assert shell.run("floating", "show", "192.0.2.50").exit_code == 3


def test_json_is_the_answer_and_nothing_else(shell: Shell) -> None:
    made = shell.run("-o", "json", "vm", "create", "-f", "-", stdin=SPEC)
    shown = shell.run("vm", "show", "i-0000000001", "-o", "json")
    listed = shell.run("vm", "ls", "-o", "json")
    assert json.loads(made.stdout)["outcome"] == "created"
    assert json.loads(listed.stdout) == [json.loads(shown.stdout)]
    gone = shell.run("vm", "delete", "i-0000000001", "-o", "json")
    assert json.loads(gone.stdout)["status"] == "succeeded"


def test_ls(shell: Shell) -> None:
    assert shell.run("vm", "ls").stdout == "there are no VMs\n"
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    shell.run("vm", "create", "-f", "-", stdin=json.dumps(vm(12, memory_mb=4096)).encode())
    shell.run("vm", "stop", "i-0000000012")
    shell.run("vm", "apply", "-f", "-", stdin=json.dumps(vm(memory_mb=64)).encode())
    assert shell.run("vm", "ls").stdout == (
        "ID            STATE    CPUS  MEMORY    VPC             ADDRESSES             NOTE\n"
        "i-0000000001  running  1     64 MiB    vpc-aaaaaaaaaa  10.0.0.5 fd00:a::5    needs a restart\n"
        "i-0000000012  stopped  1     4096 MiB  vpc-aaaaaaaaaa  10.0.0.16 fd00:a::10  should be running\n"
    )


def test_show(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=json.dumps(full()).encode())
    mac = nic_mac("i-0000000001", 0)
    assert shell.run("vm", "show", "i-0000000001").stdout == (
        "id             i-0000000001\n"
        "state          running (booted)\n"
        "wanted         running\n"
        "cpus           1\n"
        "memory         128 MiB\n"
        "since          2026-11-23T21:45:00.000Z\n"
        "restart        on-failure\n"
        "pid            4242 (running since 2026-11-23T21:45:00.000Z)\n"
        "revision       1\n"
        "user data      yes\n"
        "timings        check 0.1 ms, define 4.0 ms, wire 8.5 ms, start 500.25 ms\n"
        "seen           2026-11-23T21:45:00.000Z\n"
        "\n"
        "NIC  TAP            MAC                SUBNET             ADDRESSES\n"
        f"0    t0000000001-0  {mac}  subnet-aaaaaaaaaa  10.0.0.5/16 fd00:a::5/64\n"
        "\n"
        "DISK  PATH                              IMAGE  SIZE\n"
        "0     /var/lib/lvagent/volumes/1.qcow2  tiny   1 GiB\n"
        "\n"
        "RULE  PROTO  PORT  FROM        TO\n"
        "auto  tcp    22    10.0.0.0/8  any\n"
    )


def test_what_is_not_there(shell: Shell) -> None:
    gone = shell.run("vm", "show", "i-0000000009")
    assert (gone.exit_code, gone.stdout) == (3, "")
    assert gone.stderr == "error: there is no vm i-0000000009\nhint: list them with GET /v1/vms\n"
    for command in ("delete", "start", "log", "ssh", "console"):
        assert shell.run("vm", command, "i-0000000009").exit_code == 3
    assert shell.run("vm", "show", "../../healthz").exit_code == 3


@pytest.mark.parametrize(
    ("stdin", "error"),
    [
        (b"{", "error: this is not JSON"),
        (b'{"id":"i-0000000001","Id":"i-0000000001"}', "at: Id\n"),
        (json.dumps(vm(cpus=0)).encode(), "at: cpus\n"),
    ],
)
def test_a_wrong_spec(shell: Shell, stdin: bytes, error: str) -> None:
    refused = shell.run("vm", "create", "-f", "-", stdin=stdin)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert error in refused.stderr
    assert shell.agent.calls == []


def test_apply_needs_an_id(shell: Shell) -> None:
    for stdin in (b"{}", b"[]", b'{"id":5}', b'{"id":""}'):
        refused = shell.run("vm", "apply", "-f", "-", stdin=stdin)
        assert (refused.exit_code, refused.stderr) == (
            1,
            'error: the VM has no id\nat: id\nhint: "i-" and ten digits\n',
        )
    assert shell.run("vm", "apply", "-f", "-", stdin=b'{"id":"x?y"}').stderr.startswith("error: the path has no id")


def test_a_create_that_fails_tells_the_phase(shell: Shell) -> None:
    shell.agent.failure = HostError("volume", "make", "no space left", hint="free some").in_phase("volume")
    failed = shell.run("vm", "create", "-f", "-", stdin=SPEC)
    assert failed.exit_code == 1
    assert failed.stderr == "error: cannot make volume: no space left\nphase: volume\nhint: free some\n"


def test_delete(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    done = shell.run("vm", "delete", "i-0000000001", "--grace", "2.5", "--volumes")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "i-0000000001 deleted")
    assert shell.agent.calls[-1] == ("delete grace=2.5 volumes=True", "i-0000000001")
    assert shell.run("vm", "delete", "i-0000000001").exit_code == 3
    assert shell.run("vm", "delete", "i-0000000001", "--grace", "-1").exit_code == 2


@pytest.mark.parametrize("action", ["start", "shutdown", "stop", "reboot", "reset", "pause"])
def test_power(shell: Shell, action: str) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    done = shell.run("vm", action, "i-0000000001")
    state = {"stop": State.STOPPED, "pause": State.PAUSED}.get(action, State.RUNNING)
    assert (done.exit_code, done.stdout) == (0, f"i-0000000001 {state}\n")
    assert shell.agent.calls[-1] == (action, "i-0000000001")


def test_an_action_at_the_wrong_time(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    refused = shell.run("vm", "resume", "i-0000000001")
    assert (refused.exit_code, refused.stderr) == (
        4,
        "error: i-0000000001 is running: it cannot resume\nhint: it must be paused\n",
    )


def test_log_keeps_the_terminal_safe(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    shell.agent.console = b"a\r\n\x1b]0;evil\x07b\tc\x9b2J\x1b[1;31mred\x1b[0m\x1b(B\x1bc\x08\n"
    assert shell.run("vm", "log", "i-0000000001").stdout == "a\nb\tc\ufffd2Jred\n"
    raw = shell.run("vm", "log", "i-0000000001", "--raw").stdout_bytes
    assert raw == "a\r\n\x1b]0;evil\x07b\tc\ufffd2J\x1b[1;31mred\x1b[0m\x1b(B\x1bc\x08\n".encode()
    assert shell.run("vm", "log", "i-0000000001", "--tail", "5").stdout == "B\n"


def test_console_becomes_virsh(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    done = shell.run("vm", "console", "i-0000000001", "--force")
    assert isinstance(done.exception, Became)
    assert done.exception.argv == ["virsh", "-c", "qemu:///system", "console", "i-0000000001", "--force"]


def test_ssh_enters_the_vpc(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    known = shell.run_folder / "known_hosts" / "i-0000000001"
    done = shell.run("vm", "ssh", "i-0000000001", "-i", "/key", "-l", "debian", "--", "uptime", "-p")
    assert isinstance(done.exception, Became)
    assert done.exception.argv == [
        "nsenter",
        "--net=/run/ns/vpc-aaaaaaaaaa",
        "--",
        "ssh",
        "-oHostKeyAlias=i-0000000001",
        f"-oUserKnownHostsFile={known}",
        "-oStrictHostKeyChecking=accept-new",
        "-oCheckHostIP=no",
        "-oConnectTimeout=15",
        "-oLogLevel=ERROR",
        "-i",
        "/key",
        "-l",
        "debian",
        "--",
        "10.0.0.5",
        "uptime",
        "-p",
    ]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"proto": "tcp", "port": 22}, False),
        ({"proto": "tcp", "port": 1, "port_end": 100, "source": "10.0.0.1"}, False),
        ({"proto": "any"}, False),
        ({"proto": "tcp", "port": 23, "port_end": 100}, True),
        ({"proto": "udp", "port": 22}, True),
        ({"proto": "any", "direction": "egress"}, True),
    ],
)
def test_ssh_says_when_no_rule_lets_it_in(shell: Shell, rule: dict[str, object], told: bool) -> None:
    shell.run("vm", "create", "-f", "-", stdin=json.dumps(vm(rules=[rule])).encode())
    done = shell.run("vm", "ssh", "i-0000000001")
    assert isinstance(done.exception, Became)
    assert ("no rule of i-0000000001 lets SSH in" in done.stderr) is told


def test_a_host_key_is_forgotten_with_its_vm(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    shell.run("vm", "ssh", "i-0000000001")
    known = shell.run_folder / "known_hosts" / "i-0000000001"
    for args in (("vm", "ssh", "i-0000000001", "--new-key"), ("vm", "delete", "i-0000000001")):
        known.write_text("old")
        shell.run(*args)
        assert not known.exists()


def test_ssh_by_ipv6_and_without_root(shell: Shell) -> None:
    spec = vm()
    spec["networks"][0] |= {"ipv4": None, "gateway_v4": None}
    shell.run("vm", "create", "-f", "-", stdin=json.dumps(spec).encode())
    done = shell.run("vm", "ssh", "i-0000000001")
    assert isinstance(done.exception, Became)
    assert done.exception.argv[-2:] == ["--", "fd00:a::5"]
    refused = shell.run("vm", "ssh", "i-0000000001", is_root=False)
    assert (refused.exit_code, refused.stderr) == (
        1,
        "error: only root may enter a VPC\nhint: sudo lvagent vm ssh i-0000000001\n",
    )


def test_notes(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    found = shell.agent.vm("i-0000000001")
    shell.agent._vms["i-0000000001"] = dataclasses.replace(found, error="x", stale=True, reason="a\nb\x1b[2J")
    assert shell.run("vm", "ls").stdout.splitlines()[1].endswith("failed, not seen lately")
    assert "state          running (a?b?[2J)\n" in shell.run("vm", "show", "i-0000000001").stdout

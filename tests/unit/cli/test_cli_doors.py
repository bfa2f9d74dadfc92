"""Tokens, the audit log, monitors, and agents elsewhere, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lvagent.host.audit import AuditLog
from lvagent.host.tokens import TokenStore
from tests.unit.api.specs import vm
from tests.unit.cli.shell import Became, Shell

SPEC = json.dumps(vm()).encode()
SECRET = "0123456789abcdef" * 4
TOKEN = f"lva_0123456789ab_{SECRET}"


def test_a_token_from_its_making_to_its_end(shell: Shell) -> None:
    assert shell.run("token", "ls").stdout == "there are no tokens\n"
    made = shell.run("token", "create", "--name", "ci", "--role", "read", "--vpc", "vpc-aaaaaaaaaa")
    text = made.stdout.strip()
    found = TokenStore(shell.state).find(text)
    assert (made.exit_code, made.stderr) == (0, "")
    assert found is not None
    assert (found.name, found.vpcs, found.expires_at) == ("ci", ("vpc-aaaaaaaaaa",), None)
    listed = shell.run("token", "ls").stdout
    assert listed.splitlines()[1].split() == [found.id, "ci", "read", "vpc-aaaaaaaaaa", found.created_at, "never"]
    assert text.split("_")[2] not in listed + shell.run("token", "ls", "-o", "json").stdout
    assert shell.run("token", "revoke", found.id).stdout == f"{found.id} revoked\n"
    again = shell.run("token", "revoke", found.id)
    assert (again.exit_code, again.stderr.splitlines()[1]) == (3, "hint: list them with lvagent token ls")
    assert TokenStore(shell.state).find(text) is None


def test_a_token_as_json(shell: Shell) -> None:
    made = shell.run("token", "create", "--name", "ci", "--role", "admin", "--expires", "30d", "-o", "json")
    told = json.loads(made.stdout)
    assert (told["role"], told["vpcs"], TokenStore(shell.state).find(told["token"]) is not None) == (
        "admin",
        None,
        True,
    )
    assert set(told) == {"id", "name", "role", "vpcs", "created_at", "expires_at", "token"}


def test_what_is_no_token_to_be_made(shell: Shell) -> None:
    base = ["token", "create", "--name", "ci", "--role"]
    assert shell.run(*base, "root").exit_code == 2
    assert shell.run(*base, "read", "--expires", "soon").stderr.splitlines()[:2] == [
        "error: 'soon' is no time",
        "at: expires",
    ]
    assert "is no name of a VPC" in shell.run(*base, "read", "--vpc", "blue").stderr
    for command in (["token", "ls"], [*base, "read"], ["token", "revoke", "x"], ["audit"]):
        refused = shell.run(*command, is_root=False)
        assert (refused.exit_code, "root" in refused.stderr) == (1, True)
    assert not shell.state.exists()


def test_the_audit_log(shell: Shell) -> None:
    assert shell.run("audit").stdout == "nothing was done yet\n"
    log = AuditLog(shell.state, size=1 << 20, keep=1)
    base = {"time": "T", "event": "request", "method": "PUT", "route": "putVm", "object": "i-0000000001", "ms": 1.5}
    log.write({**base, "uid": 0, "pid": 5, "status": 201, "type": None, "operation": "op-1"})
    log.write(
        {
            **base,
            "address": "192.0.2.9",
            "token": "abc",
            "name": "ci\x1b[2J",
            "status": 403,
            "type": "forbidden",
            "untold": 7,
        }
    )
    log.write({**base, "event": "end", "uid": 0, "status": "failed", "type": "host", "operation": "op-1"})
    with log.path.open("a") as file:
        file.write("not a line\n")
    shown = shell.run("audit").stdout
    assert [" ".join(line.split()) for line in shown.splitlines()[1:]] == [
        "T uid 0 putVm i-0000000001 201 1.5 op-1",
        "T ci?[2J (abc) at 192.0.2.9 putVm i-0000000001 403 forbidden (+7 more) 1.5",
        "T uid 0 putVm i-0000000001 ended: failed host 1.5 op-1",
        "? ? not a line",
    ]
    assert len(json.loads(shell.run("audit", "--tail", "2", "-o", "json").stdout)) == 2


def test_monitors(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    assert json.loads(shell.run("vm", "qmp", "i-0000000001", "query-status").stdout)["status"] == "running"
    line = '{"command-line": "info status"}'
    assert "VM status" in shell.run("vm", "qmp", "i-0000000001", "human-monitor-command", line).stdout
    for command in (["info status"], ["info", "status"]):
        assert shell.run("vm", "hmp", "i-0000000001", *command).stdout == "VM status: running\n"
    refused = shell.run("vm", "qmp", "i-0000000001", "query-nonsense")
    assert (refused.exit_code, "CommandNotFound" in refused.stderr) == (1, True)
    assert shell.run("vm", "qmp", "i-0000000001", "query-status", "{").stderr.splitlines()[0].endswith("not JSON")
    assert shell.run("vm", "qmp", "i-0000000009", "query-status").exit_code == 3


# agents elsewhere


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://192.0.2.1:7443", "a token is not sent over plain HTTP"),
        ("http://localhost:7443", "a token is not sent over plain HTTP"),
        ("https://192.0.2.1", "the URL cannot be used"),
        ("ftp://192.0.2.1:1", "the URL cannot be used"),
        ("192.0.2.1:7443", "the URL cannot be used"),
        ("https://192.0.2.1:x", "the URL cannot be read"),
        ("https://192.0.2.1:7443/v1", "the URL cannot be used"),
        (f"https://{TOKEN}@192.0.2.1:7443", "the URL has more than a host and a port"),
        (f"https://192.0.2.1:7443?token={TOKEN}", "the URL has more than a host and a port"),
    ],
)
def test_a_url_that_cannot_be(shell: Shell, url: str, why: str) -> None:
    refused = shell.run("--url", url, "vm", "ls", local=False, LVAGENT_TOKEN=TOKEN)
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (1, f"error: {why}")
    assert SECRET not in refused.output


def test_a_token_is_needed_and_never_shown(shell: Shell, tmp_path: Path) -> None:
    url = ["--url", "http://127.0.0.1:1", "vm", "ls"]
    assert "there is no token" in shell.run(*url, local=False, LVAGENT_TOKEN="").stderr
    absent = shell.run("--token-file", str(tmp_path / "absent"), *url, local=False)
    assert absent.stderr.startswith(f"error: cannot read the token in {tmp_path}/absent: No such file")
    for text in (f"{TOKEN}\r\nX-Evil: {SECRET}", f"{TOKEN} {SECRET}", f"\u00e9{SECRET}"):
        (tmp_path / "token").write_text(text)
        for source in (["--token-file", str(tmp_path / "token")], []):
            refused = shell.run(*source, *url, local=False, LVAGENT_TOKEN=text)
            assert refused.stderr.startswith("error: the token has spaces, or is none")
            assert SECRET not in refused.output
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "it is no text" in shell.run("--token-file", str(tmp_path / "binary"), *url, local=False).stderr


def test_a_socket_that_is_named_is_meant(shell: Shell) -> None:
    url = {"LVAGENT_URL": "https://192.0.2.1:1"}
    assert "there is no token" in shell.run("vm", "ls", local=False, **url).stderr
    refused = shell.run("--socket", "/nonexistent/api.sock", "vm", "console", "i-0000000001", **url)
    assert (refused.exit_code, "no vm" in refused.stderr) == (3, True)


def test_no_option_takes_a_token(shell: Shell) -> None:
    assert shell.run("--token", TOKEN, "vm", "ls").exit_code == 2


def test_files_for_tls_that_cannot_be_used(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for name in ("absent.pem", "junk.pem"):
        for option in ("--cacert", "--cert"):
            path = str(tmp_path / name)
            refused = shell.run(
                option, path, "--url", "https://127.0.0.1:1", "vm", "ls", local=False, LVAGENT_TOKEN=TOKEN
            )
            assert (refused.exit_code, refused.stderr.startswith(f"error: {path} cannot be used: ")) == (1, True)


def test_what_is_done_on_the_host_is_not_done_elsewhere(shell: Shell) -> None:
    shell.run("vm", "create", "-f", "-", stdin=SPEC)
    for command in ("console", "ssh"):
        refused = shell.run("--url", "https://192.0.2.1:1", "vm", command, "i-0000000001")
        assert "on the agent's own host only" in refused.stderr
        assert isinstance(shell.run("vm", command, "i-0000000001").exception, Became)


@pytest.mark.parametrize(
    "command",
    [("token", "ls"), ("token", "create", "--name", "ci", "--role", "read"), ("token", "revoke", "x"), ("audit",)],
)
def test_tokens_and_the_audit_log_of_this_host_are_not_taken_for_those_of_another(
    shell: Shell, command: tuple[str, ...]
) -> None:
    refused = shell.run("--url", "https://192.0.2.1:1", *command)
    assert (refused.exit_code, "on the agent's own host only" in refused.stderr) == (1, True)
    assert not shell.state.exists()

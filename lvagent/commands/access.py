"""Getting into a guest: its console, its log, and SSH from inside its VPC."""

from __future__ import annotations

import contextlib
import re
from ipaddress import ip_interface
from pathlib import Path
from urllib.parse import quote

import click

from lvagent.commands.failure import Failure
from lvagent.commands.session import Session, pass_session
from lvagent.commands.tables import Json, objects, texts

SSH_PORT = 22

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[PX\]^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])", re.MULTILINE)


def path_of(ident: str) -> str:
    """Where the API has a VM."""
    return f"/v1/vms/{quote(ident, safe='')}"


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--force", is_flag=True, help="Take it from whoever has it open.")
@pass_session
def console(session: Session, ident: str, force: bool) -> None:
    """Open a VM's serial console (virsh console; leave it with ^])."""
    session.need_local()
    session.client().get(path_of(ident))
    more = ["--force"] if force else []
    session.execute(["virsh", "-c", session.settings().libvirt.uri, "console", ident, *more])


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--tail", type=click.IntRange(1, 1 << 20), default=1 << 16, help="Bytes from its end.", show_default=True)
@click.option("--raw", is_flag=True, help="As the guest wrote it, with control characters.")
@pass_session
def log(session: Session, ident: str, tail: int, raw: bool) -> None:
    """Print what a VM's guest wrote to its serial console.

    Control characters are left out: a guest could make the terminal do things.
    """
    text = session.client().call("GET", f"{path_of(ident)}/console?tail={tail}").body.decode(errors="replace")
    kept = text if raw else harmless(text)
    click.echo(kept, nl=not kept.endswith("\n"), color=True)


def harmless(text: str) -> str:
    """A guest's text without what a terminal obeys: escape sequences (ECMA-48) and other control characters."""
    return "".join(char for char in _SEQUENCE.sub("", text) if char.isprintable() or char in "\n\t")


@click.command()
@click.argument("ident", metavar="ID")
@click.argument("command", nargs=-1)
@click.option("-l", "--user", default="root", help="The guest's user.", show_default=True)
@click.option("-i", "--identity", type=click.Path(), help="The private key.")
@click.option("--new-key", is_flag=True, help="Forget the guest's host key first.")
@pass_session
def ssh(session: Session, ident: str, command: tuple[str, ...], user: str, identity: str | None, new_key: bool) -> None:
    """Open SSH to a VM from inside its VPC, or run a command there: lvagent vm ssh ID -- uptime

    Nobody outside of the VPC can reach it, so this enters the VPC's namespace; that takes root. A guest's host key is
    kept from its first use until the VM is deleted here or the host reboots.
    """
    session.need_local()
    vm = session.client().get(path_of(ident))
    vpc, address = _first_address(vm)
    if not session.root:
        raise Failure("only root may enter a VPC", hint=f"sudo lvagent vm ssh {ident}")
    if not any(map(_lets_ssh_in, objects(vm["rules"]))):
        click.echo(f'no rule of {ident} lets SSH in; add {{"proto": "tcp", "port": {SSH_PORT}}} to its rules', err=True)
    if new_key:
        forget_host_key(session, ident)
    settings = session.settings()
    options = {
        "HostKeyAlias": ident,
        "UserKnownHostsFile": str(_known_hosts(session, ident)),
        "StrictHostKeyChecking": "accept-new",
        "CheckHostIP": "no",
        "ConnectTimeout": "15",
        "LogLevel": "ERROR",
    }
    inside = ["nsenter", f"--net={settings.paths.netns}/{vpc}", "--"]
    flags = [f"-o{name}={value}" for name, value in options.items()]
    keys = ["-i", identity] if identity else []
    session.execute([*inside, "ssh", *flags, *keys, "-l", user, "--", address, *command])


def _lets_ssh_in(rule: Json) -> bool:
    """Whether a rule may let SSH in; from where is not looked at."""
    first, last = int(str(rule["port"] or 0)), int(str(rule["port_end"] or rule["port"] or 0))
    fits = rule["proto"] == "any" or (rule["proto"] == "tcp" and (not first or first <= SSH_PORT <= last))
    return fits and rule["direction"] != "egress"


def _first_address(vm: Json) -> tuple[str, str]:
    """The VPC and the address (v4 if it has one) of the first NIC."""
    for port in sorted(objects(vm["ports"]), key=lambda port: str(port["position"]).zfill(2)):
        for address in texts(port["addresses"]):
            return str(port["vpc"]), str(ip_interface(address).ip)
    raise Failure(f"{vm['id']} has no address")


def _known_hosts(session: Session, ident: str) -> Path:
    folder = Path(session.settings().paths.run) / "known_hosts"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / ident


def forget_host_key(session: Session, ident: str) -> None:
    """Forget what a guest's host key was, if it may be forgotten by who asks."""
    if session.root and not session.url and "/" not in ident:
        with contextlib.suppress(OSError):
            known = Path(session.settings().paths.run) / "known_hosts" / ident
            known.unlink()
            known.parent.rmdir()

"""``lvagent vm qmp`` and ``lvagent vm hmp``: qemu's monitors."""

from __future__ import annotations

import json

import click

from lvagent.commands.access import path_of
from lvagent.commands.failure import Failure
from lvagent.commands.session import Session, pass_session
from lvagent.commands.tables import print_json


@click.command()
@click.argument("ident", metavar="ID")
@click.argument("execute", metavar="COMMAND")
@click.argument("arguments", metavar="[ARGUMENTS]", default="")
@pass_session
def qmp(session: Session, ident: str, execute: str, arguments: str) -> None:
    """Send a QMP command to a VM's qemu: lvagent vm qmp ID query-status

    ARGUMENTS are a JSON object. libvirt calls the VM tainted from then on.
    """
    body: dict[str, object] = {"execute": execute}
    if arguments:
        try:
            body["arguments"] = json.loads(arguments)
        except (ValueError, RecursionError):
            raise Failure("the arguments are not JSON", path="arguments", hint="""'{"name": "value"}'""") from None
    answer = session.client().call("POST", f"{path_of(ident)}/qmp", json.dumps(body).encode()).json
    print_json(answer["return"])


@click.command()
@click.argument("ident", metavar="ID")
@click.argument("command", nargs=-1, required=True)
@pass_session
def hmp(session: Session, ident: str, command: tuple[str, ...]) -> None:
    """Send an HMP command to a VM's qemu: lvagent vm hmp ID info network

    libvirt calls the VM tainted from then on.
    """
    raw = json.dumps({"command": " ".join(command)}).encode()
    text = str(session.client().call("POST", f"{path_of(ident)}/hmp", raw).json["output"]).replace("\r\n", "\n")
    shown = "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
    click.echo(shown, nl=not shown.endswith("\n"))

"""``lvagent events``: what happens to VMs, as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from urllib.parse import urlencode

import click

from lvagent.commands.failure import UNREACHABLE, Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import plain


@click.command()
@click.option("--vm", metavar="ID", default="", help="Of this VM only.")
@click.option("--after", metavar="EVENT", default="", help="Begin after the event of this id, if it is still known.")
@output_option
@pass_session
def events(session: Session, vm: str, after: str) -> None:
    """Show what happens to VMs, until interrupted. With -o json: one object on each line."""
    target = f"/v1/events?{urlencode({'vm': vm})}" if vm else "/v1/events"
    headers = {"Last-Event-ID": after} if after else {}
    try:
        for event in parsed(session.lines()(target, headers)):
            click.echo(json.dumps(event) if session.json else _line(event))
    except KeyboardInterrupt:
        return
    raise Failure("the stream ended", code=UNREACHABLE, hint="the agent stopped, or the token does not hold any more")


def parsed(lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
    """The events of a stream (WHATWG HTML, 9.2.6), each with its ``id``.

    :raise Failure: this is no such stream.
    """
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield {"id": fields.get("id"), **_object(fields["data"])}
            fields = {}
        else:
            fields = {}


def _object(data: str) -> dict[str, object]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Failure("the answer is not that of an agent", hint="is this the right socket?")
    return found


def _line(event: dict[str, object]) -> str:
    detail = event.get("detail")
    members = detail.items() if isinstance(detail, dict) else ()
    told = " ".join(f"{plain(name)}={plain(value)}" for name, value in members if value is not None)
    columns = (event.get("at"), event.get("vm") or "-", event.get("type"))
    return "  ".join([*map(plain, columns), told]).rstrip()

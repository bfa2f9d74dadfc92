"""``lvagent explain``: whether A reaches B, and what decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast
from urllib.parse import urlencode

import click

from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, objects, plain, print_json

REFUSED = 1
"""The exit code of a flow that is refused, or of one of which the wishes and the kernel do not say the same."""


@click.command()
@click.option("--from", "origin", required=True, metavar="ID|world[:ADDRESS]", help="Who sends.")
@click.option("--to", "target", required=True, metavar="ID|ADDRESS", help="To whom.")
@click.option("--proto", default="tcp", help="tcp, udp, icmp, icmpv6, sctp or a number.", show_default=True)
@click.option("--port", type=click.IntRange(1, 65_535), help="The port that is sent to.")
@click.option("--source", metavar="ADDRESS", help="What a VM would say it sends from. Default: its own address.")
@click.option("--live", is_flag=True, help="Also send the packet, and see what becomes of it.")
@output_option
@click.pass_context
@pass_session
def explain(
    session: Session,
    ctx: click.Context,
    origin: str,
    target: str,
    proto: str,
    port: int | None,
    source: str | None,
    live: bool,
) -> None:
    """Say whether a flow is allowed, and what decides: a rule, a route, a wish. With --live, try it.

    The packet of --live comes as from the sender's port and is taken out before it arrives: no guest is needed, and
    none sees it. Exit code 0: allowed; 1: refused, or --live found it otherwise.
    """
    asked = {"from": origin, "to": target, "proto": proto, "port": port, "source": source}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    found = session.client().call("POST" if live else "GET", f"/v1/explain?{query}").json
    if session.json:
        print_json(found)
    else:
        _print(found)
    told = cast(Mapping[str, object], found["live"] or {})
    ctx.exit(REFUSED if found["verdict"] != "allowed" or told.get("agrees") is False else 0)


def _print(found: Json) -> None:
    packet = cast(Mapping[str, str] | None, found["packet"])
    port = f" {found['port']}" if found["port"] else ""
    ends = f"{packet['source']} -> {packet['destination']}" if packet else f"{found['from']} -> {found['to']}"
    click.echo(f"{plain(found['proto'])}{port}  {plain(ends)}")
    for step in objects(found["steps"]):
        mark = " " if step["passed"] else "x"
        click.echo(f"{mark} {plain(step['stage']):<9} {plain(step['text'])}")
    click.echo(plain(found["why"]))
    live = cast(Mapping[str, object] | None, found["live"])
    if live is None:
        return
    for name in ("text", "decider"):
        if live[name]:
            click.echo(f"{'live' if name == 'text' else 'by':<5} {plain(live[name])}")
    if live["agrees"] is False:
        click.echo("-> the host does not do what is wanted of it: lvagent doctor says more")

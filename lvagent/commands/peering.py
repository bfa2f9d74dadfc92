"""``lvagent peering``: which VPCs route to each other."""

from __future__ import annotations

from urllib.parse import quote

import click

from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, print_facts, print_json, print_table, texts


@click.group()
def group() -> None:
    """Let two VPCs with disjoint prefixes route to each other. A and B may be named in any order."""


def _path(one: str, other: str) -> str:
    return f"/v1/peerings/{quote(one, safe='')}/{quote(other, safe='')}"


def _print(session: Session, found: Json) -> None:
    if session.json:
        print_json(found)
        return
    print_facts(
        {
            "peering": f"{found['a']}/{found['b']}",
            "state": found["state"],
            "reason": found["reason"],
            f"in {found['a']}": texts(found["a_prefixes"]),
            f"in {found['b']}": texts(found["b_prefixes"]),
        }
    )


@group.command()
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@output_option
@pass_session
def add(session: Session, one: str, other: str) -> None:
    """Peer two VPCs. The link is there while both have a VM on this host."""
    _print(session, session.client().call("PUT", _path(one, other)).json)


@group.command("ls")
@output_option
@pass_session
def list_(session: Session) -> None:
    """List all peerings."""
    found = session.client().items("/v1/peerings")
    if session.json:
        print_json(found)
        return
    rows = [(one["a"], one["b"], one["state"], one["reason"]) for one in found]
    print_table(("A", "B", "STATE", "REASON"), rows, empty="there are no peerings")


@group.command()
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@output_option
@pass_session
def show(session: Session, one: str, other: str) -> None:
    """Show one peering."""
    _print(session, session.client().get(_path(one, other)))


@group.command("rm")
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@pass_session
def remove(session: Session, one: str, other: str) -> None:
    """Peer two VPCs no more; flows between them end."""
    session.client().call("DELETE", _path(one, other))
    click.echo(f"{one} and {other} are not peered")


group.add_command(list_, "list")

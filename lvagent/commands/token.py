"""``lvagent token``: bearer tokens for the API over TCP. A running agent sees the file change at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lvagent.commands.failure import Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import print_json, print_table
from lvagent.spec.access import Role

if TYPE_CHECKING:
    from lvagent.host.tokens import TokenStore
    from lvagent.spec.tokens import Token


@click.group()
def group() -> None:
    """Make, list and revoke tokens for the API over TCP."""


def _store(session: Session) -> TokenStore:
    from lvagent.host.tokens import TokenStore

    session.need_local()
    if not session.root:
        raise Failure("tokens are root's", hint="sudo lvagent token ...")
    return TokenStore(Path(session.settings().paths.state))


@group.command()
@click.option("--name", required=True, help="What it is for, or whose.")
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]), help="What it may do.")
@click.option("--vpc", "vpcs", multiple=True, metavar="NAME", help="Limit it to this VPC; may be repeated.")
@click.option("--expires", default="", metavar="WHEN", help="30d, 12h, 45m, or RFC 3339. Default: never.")
@output_option
@pass_session
def create(session: Session, name: str, role: str, vpcs: tuple[str, ...], expires: str) -> None:
    """Make a token and print it: this once, for only a hash of it is kept.

    read sees everything but consoles and XML; operate also has power and consoles, and asks qemu; admin makes, changes
    and deletes VMs, with any volume in the volume folders: without --vpc that is worth root on this host.
    """
    token, text = _store(session).create(name, Role(role), vpcs=vpcs, expires=expires)
    if session.json:
        print_json({**_shown(token), "token": text})
    else:
        click.echo(text)


@group.command("ls")
@output_option
@pass_session
def list_(session: Session) -> None:
    """List the tokens."""
    found = _store(session).all()
    if session.json:
        print_json([_shown(token) for token in found])
        return
    heads = ("ID", "NAME", "ROLE", "VPCS", "CREATED", "EXPIRES")
    rows = [(one.id, one.name, one.role, " ".join(one.vpcs or ("all",)), one.created_at, _expiry(one)) for one in found]
    print_table(heads, rows, empty="there are no tokens")


def _expiry(token: Token) -> str:
    import datetime

    over = token.expired(datetime.datetime.now(datetime.UTC))
    return f"{token.expires_at} (expired)" if over else token.expires_at or "never"


def _shown(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.value,
        "vpcs": None if token.vpcs is None else list(token.vpcs),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
    }


@group.command()
@click.argument("ident", metavar="ID")
@pass_session
def revoke(session: Session, ident: str) -> None:
    """Take a token away; it opens nothing from its bearer's next request on."""
    gone = _store(session).revoke(ident)
    click.echo(f"{gone.id} revoked")


group.add_command(list_, "list")

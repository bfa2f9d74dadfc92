"""``lvagent plan``: what making a VM would do."""

from __future__ import annotations

from typing import IO

import click

from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import objects, plain, print_json, texts


@click.command()
@click.argument("file", type=click.File("rb"))
@output_option
@pass_session
def plan(session: Session, file: IO[bytes]) -> None:
    """Show what making the VM of FILE (- is standard input), or changing it, would do; touches nothing."""
    found = session.client().call("POST", "/v1/plan", file.read()).json
    if session.json:
        print_json(found)
        return
    click.echo(f"the VM would be {plain(found['outcome'])}")
    for number, step in enumerate(texts(found["steps"]), 1):
        click.echo(f"{number:>4}. {plain(step)}")
    if needed := texts(found["restart_needed"]):
        click.echo(f"at its next start: {', '.join(needed)}")
    _text("domain XML", str(found["xml"]))
    for kind in ("nft", "dnsmasq"):
        for one in objects(found[kind]):
            _text(f"{kind}, {one['vpc']}", str(one["text"]))


def _text(title: str, text: str) -> None:
    if text:
        click.echo(f"\n--- {plain(title)}\n{text.rstrip()}")

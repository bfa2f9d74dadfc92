"""``lvagent why``: what happened to a VM last, and what to do."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

import click

from lvagent.commands.failure import NOT_FOUND, Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import plain, print_json


@click.command()
@click.argument("vm")
@click.option("--tail", type=click.IntRange(0, 1000), default=10, help="Entries of its timeline.", show_default=True)
@output_option
@pass_session
def why(session: Session, vm: str, tail: int) -> None:
    """Say in plain words what happened to a VM last, and what to do. Works for one that is gone, too."""
    from lvagent.spec.why import Case, explain

    client = session.client()
    entries = client.items(f"/v1/vms/{vm}/timeline")
    try:
        status: dict[str, object] | None = client.get(f"/v1/vms/{vm}")
    except Failure as failure:
        if failure.exit_code != NOT_FOUND:
            raise
        status = None
    reason = explain(Case(vm, status, entries, datetime.datetime.now(datetime.UTC)))
    if session.json:
        print_json({"vm": vm, **dataclasses.asdict(reason), "timeline": entries})
        return
    for entry in entries[-tail:] if tail else ():
        click.echo(f"{entry['at']}  {plain(entry['kind']):<11} {_line(entry)}")
    click.echo(f"{vm}: {plain(reason.what)}")
    if reason.todo:
        click.echo(f"-> {plain(reason.todo)}")


def _line(entry: Mapping[str, object]) -> str:
    """What an entry has to say, on one line of bounded length."""
    found = entry.get("detail")
    if not isinstance(found, Mapping):
        return ""
    texts = (
        f"{name} {_value(value)}" for name, value in found.items() if value not in ("", None, {}) and name != "all"
    )
    return plain(", ".join(texts))[:200]


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={part}" for name, part in value.items())
    return str(value)

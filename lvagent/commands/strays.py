"""``lvagent strays`` and ``lvagent sweep``."""

from __future__ import annotations

import json

import click

from lvagent.commands.failure import NOT_FOUND, Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, objects, plain, print_json, print_table, texts


@click.group()
def group() -> None:
    """List what nobody wants on this host: qemu processes, and objects of the agent's; end such processes."""


@group.command("ls")
@click.option("-l", "--long", is_flag=True, help="Also arguments, sockets, disks and taps.")
@output_option
@pass_session
def list_(session: Session, long: bool) -> None:
    """List all strays."""
    found = session.client().get("/v1/strays")
    if session.json:
        print_json(found)
        return
    processes = objects(found["processes"])
    heads = ("PID", "SORT", "STATE", "AGE", "PROGRAM", "PARENT", "WHY")
    print_table(heads, [_row(one) for one in processes], empty="no stray processes")
    for one in processes if long else ():
        click.echo(f"\n{one['pid']}  identity {one['identity']}, uid {one['uid']}, seen in {one['sweeps']} sweeps")
        for name in ("arguments", "sockets", "disks", "taps"):
            click.echo(f"  {name}: {plain(' '.join(texts(one[name])))}")
    click.echo()
    rows = [(one["kind"], one["name"], one["why"]) for one in objects(found["objects"])]
    print_table(("KIND", "NAME", "WHY"), rows, empty="no stray objects")


def _row(one: Json) -> tuple[object, ...]:
    age, parent = f"{one['age']} s", f"{one['parent_name']} ({one['parent']})"
    return one["pid"], one["sort"], one["state"], age, one["program"], parent, one["why"]


@group.command()
@click.argument("pid", type=click.IntRange(1, 1 << 22))
@click.option("--identity", default="", help="When it began, as ls told it; without, the one that is there now.")
@output_option
@pass_session
def kill(session: Session, pid: int, identity: str) -> None:
    """End a stray: SIGTERM, then SIGKILL."""
    client = session.client()
    if not identity:
        there = [one for one in objects(client.get("/v1/strays")["processes"]) if one["pid"] == pid]
        if not there:
            raise Failure(f"{pid} is no stray", code=NOT_FOUND, hint="lvagent strays ls")
        identity = str(there[0]["identity"])
    found = client.call("POST", f"/v1/strays/{pid}/kill", json.dumps({"identity": identity}).encode()).json
    if session.json:
        print_json(found)
    else:
        click.echo(f"{pid} ended")


@click.command()
@click.option("--force", is_flag=True, help="Remove also more than one sweep may (sweep.removals).")
@output_option
@pass_session
def sweep(session: Session, force: bool) -> None:
    """Compare all that is there with all that is wanted, now."""
    found = session.client().call("POST", f"/v1/sweep?force={str(force).lower()}", None).json
    if session.json:
        print_json(found)
    else:
        click.echo(plain(found["held"]) if found["held"] else "done")

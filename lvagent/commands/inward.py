"""``lvagent vm ports`` and ``lvagent floating``: what leads to VMs from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

import click

from lvagent.commands import access
from lvagent.commands.client import Client
from lvagent.commands.failure import Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, objects, plain, print_json, print_table, texts
from lvagent.errors import Superseded

HEADS = ("PROTO", "ADDRESS", "PORT", "VM PORT", "SOURCES")
TRIES = 8
"""How often a change is tried while others change the same."""

FORM = "[ADDRESS:]PORT[-END][:PORT][/udp]"

_PORT = re.compile(
    r"(?:(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9]+\.[0-9.]+):)?(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?P<proto>tcp|udp))?\Z"
)


class PublicationType(click.ParamType):  # type: ignore[type-arg]
    """A publication in one word."""

    name = FORM

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, object]:
        """The word as the API has it."""
        if isinstance(value, dict):
            return value
        match = _PORT.match(str(value))
        if match is None:
            self.fail(f"{value!r} is not {FORM}, such as 8080:80, 192.0.2.10:53/udp or [2001:db8::1]:443", param, ctx)
        found = match.groupdict()
        number = {name: int(found[name]) for name in ("first", "last", "port") if found[name]}
        return {
            "proto": found["proto"] or "tcp",
            "host_address": (found["address"] or "").strip("[]") or None,
            "host_port": number["first"],
            "host_port_end": number.get("last"),
            "port": number.get("port"),
        }


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--add", "added", multiple=True, type=PublicationType(), help="Lead a port of the host to the VM.")
@click.option("--source", "sources", multiple=True, metavar="CIDR", help="Who may come by what is added; else anybody.")
@click.option("--remove", "removed", multiple=True, type=PublicationType(), help="Lead a port of the host nowhere.")
@click.option("--clear", is_flag=True, help="Begin with none.")
@output_option
@pass_session
def ports(
    session: Session,
    ident: str,
    added: tuple[dict[str, object], ...],
    sources: tuple[str, ...],
    removed: tuple[dict[str, object], ...],
    clear: bool,
) -> None:
    """Show the ports of the host that lead to a VM, or change them.

    A port is [ADDRESS:]PORT[-END][:PORT][/udp]: on which address of the host (any), which port or range there, which
    port of the VM (the same). To remove one, the part before the VM's port is enough.
    """
    client, path = session.client(), f"{access.path_of(ident)}/ports"
    new = [{**one, "sources": list(sources)} for one in added]
    found: Sequence[Json]
    if added or removed or clear:
        found = _change(client, path, lambda there: [*([] if clear else _without(there, removed)), *new])
    else:
        found = client.items(path)
    if session.json:
        print_json(found)
        return
    print_table(HEADS, [_row(one) for one in found], empty=f"nothing leads to {plain(ident)}")


def _change(client: Client, path: str, wish: Callable[[Sequence[Json]], list[Json]]) -> Sequence[Json]:
    """Make of the ports that are there what is wished; if somebody else was faster, of those that are there then."""
    for left in reversed(range(TRIES)):
        there = client.call("GET", path)
        wanted = json.dumps(wish(objects(there.json["items"]))).encode()
        try:
            return objects(client.call("PUT", path, wanted, If_Match=there.headers["etag"]).json["items"])
        except Failure as failure:
            if failure.kind != Superseded.kind or not left:
                raise
    raise AssertionError("unreachable")


def _without(there: Sequence[Json], removed: tuple[dict[str, object], ...]) -> list[Json]:
    for gone in removed:
        if not any(_same(one, gone) for one in there):
            raise click.BadParameter(
                f"{gone['proto']} port {gone['host_port']} is not published", param_hint="--remove"
            )
    return [one for one in there if not any(_same(one, gone) for gone in removed)]


def _same(one: Json, other: Json) -> bool:
    """Whether two publications are of the same ports of the host."""
    return all(one[name] == other[name] for name in ("proto", "host_address", "host_port", "host_port_end"))


def _row(one: Json) -> tuple[object, ...]:
    host, vm = _range(one, "host_port"), _range(one, "port")
    return one["proto"], one["host_address"] or "any", host, vm, ", ".join(texts(one["sources"])) or "any"


def _range(one: Json, name: str) -> str:
    return f"{one[name]}-{one[f'{name}_end']}" if one[f"{name}_end"] else str(one[name])


def told(found: Iterable[Json]) -> list[str]:
    """Publications in one word each."""
    return [
        f"{one['host_address'] or 'any'}:{_range(one, 'host_port')} to {_range(one, 'port')}/{one['proto']}"
        for one in found
    ]


@click.group()
def floating() -> None:
    """Lead addresses of the host's network to VMs."""


@floating.command("ls")
@output_option
@pass_session
def list_floating(session: Session) -> None:
    """List all floating addresses."""
    _print_floating(session, session.client().items("/v1/floating"))


@floating.command("show")
@click.argument("address")
@output_option
@pass_session
def show_floating(session: Session, address: str) -> None:
    """Show where a floating address is led."""
    _print_floating(session, session.client().get(_floating_path(address)))


@floating.command("set")
@click.argument("address")
@click.argument("ident", metavar="ID")
@click.option("--interface", metavar="LINK", help="The host's link that it is on; else as the agent is set.")
@output_option
@pass_session
def set_floating(session: Session, address: str, ident: str, interface: str | None) -> None:
    """Lead an address to a VM, wherever it was led before."""
    body = json.dumps({"vm": ident, "interface": interface}).encode()
    _print_floating(session, session.client().call("PUT", _floating_path(address), body).json)


@floating.command("rm")
@click.argument("address")
@pass_session
def remove_floating(session: Session, address: str) -> None:
    """Lead an address nowhere."""
    session.client().call("DELETE", _floating_path(address))
    click.echo(f"{plain(address)} is free")


def _floating_path(address: str) -> str:
    return f"/v1/floating/{quote(address, safe=':')}"


def _print_floating(session: Session, found: Json | Sequence[Json]) -> None:
    if session.json:
        print_json(found)
        return
    rows = [
        (one["address"], one["vm"], one["interface"] or "as set")
        for one in ([found] if isinstance(found, Mapping) else found)
    ]
    print_table(("ADDRESS", "VM", "INTERFACE"), rows, empty="there are no floating addresses")

"""``lvagent vpc`` and ``lvagent subnet``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast
from urllib.parse import quote

import click

from lvagent.commands.client import Client
from lvagent.commands.failure import NOT_FOUND, Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, objects, print_facts, print_json, print_table, size, texts

SUBNET_HEADS = ("SUBNET", "VPC", "VNI", "MTU", "GATEWAYS", "VMS")


@click.group()
def vpc() -> None:
    """List and show VPCs, and say what is wanted of them. They are there while a VM is in them."""


@vpc.command("ls")
@output_option
@pass_session
def list_vpcs(session: Session) -> None:
    """List all VPCs."""
    found = session.client().items("/v1/vpcs")
    if session.json:
        print_json(found)
        return
    rows = [(one["name"], one["domain"], len(objects(one["subnets"])), len(texts(one["vms"]))) for one in found]
    print_table(("VPC", "DOMAIN", "SUBNETS", "VMS"), rows, empty="there are no VPCs")


@vpc.command("show")
@click.argument("name")
@output_option
@pass_session
def show_vpc(session: Session, name: str) -> None:
    """Show one VPC."""
    _print_vpc(session, session.client().get(_path(name)))


@vpc.command("set")
@click.argument("name")
@click.option("--uplink", type=click.Choice(["none", "nat", "routed", "default"]), help="The way out.")
@click.option("--forwarder", "forwarders", multiple=True, metavar="ADDRESS", help="A DNS server for names outside.")
@click.option("--no-forwarders", is_flag=True, help="Ask nobody for names outside.")
@click.option("--domain", metavar="NAME", help="Its DNS domain; default: as the agent is set.")
@click.option("--mtu", metavar="BYTES", help="What a NIC gets at most; default: what its segment carries.")
@click.option("--metadata", type=click.Choice(["on", "off", "default"]), help="Whether metadata is served.")
@click.option("--reset", is_flag=True, help="Begin with all as the agent is set.")
@output_option
@pass_session
def set_vpc(
    session: Session,
    name: str,
    uplink: str | None,
    forwarders: tuple[str, ...],
    no_forwarders: bool,
    domain: str | None,
    mtu: str | None,
    metadata: str | None,
    reset: bool,
) -> None:
    """Say what is wanted of a VPC. What is not said stays; "default" is as the agent is set."""
    client = session.client()
    wish = {} if reset else _settings(client, name)
    said = {"uplink": uplink, "domain": domain, "mtu": mtu, "metadata": metadata}
    for key, value in said.items():
        if value is not None:
            wish[key] = None if value == "default" else _number(value) if key == "mtu" else value
    if forwarders or no_forwarders:
        wish["forwarders"] = list(forwarders)
    _print_vpc(session, client.call("PUT", _path(name), json.dumps(wish).encode()).json)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a number of bytes", param_hint="--mtu")
    return int(text)


def _settings(client: Client, name: str) -> dict[str, object]:
    """What is wanted of a VPC by now; nothing of one that is not there."""
    try:
        return dict(cast(Mapping[str, object], client.get(_path(name))["settings"]))
    except Failure as failure:
        if failure.exit_code != NOT_FOUND:
            raise
        return {}


def _path(name: str) -> str:
    return f"/v1/vpcs/{quote(name, safe='')}"


def _print_vpc(session: Session, found: Json) -> None:
    if session.json:
        print_json(found)
        return
    uplink = cast(Json, found["uplink"])
    ends = [
        f"{uplink[f'address_{one}']} by {uplink[f'gateway_{one}']}" for one in ("v4", "v6") if uplink[f"address_{one}"]
    ]
    print_facts(
        {
            "vpc": found["name"],
            "namespace": found["netns"],
            "domain": found["domain"],
            "uplink": uplink["mode"],
            "transit": ends,
            "routed": uplink["routes"],
            "dns": uplink["forwarders"],
            "metadata": found["metadata"],
            "trouble": uplink["trouble"],
            "peers": found["peers"],
            "vms": found["vms"],
        }
    )
    click.echo()
    print_table(SUBNET_HEADS, [_subnet_row(one) for one in objects(found["subnets"])], empty="no subnets")
    flows = cast(Json | None, found["sessions"])
    if flows is not None:
        click.echo()
        rows = [(one["vm"], one["sessions"], size(one["bytes"])) for one in objects(flows["vms"])]
        print_table(("VM", "SESSIONS", "BYTES"), rows, empty="no flows by the uplink now")
        if not flows["complete"]:
            click.echo("there are more flows than were looked at")


@click.group()
def subnet() -> None:
    """List and show subnets. They are there while a VM is in them."""


@subnet.command("ls")
@output_option
@pass_session
def list_subnets(session: Session) -> None:
    """List all subnets."""
    found = session.client().items("/v1/subnets")
    if session.json:
        print_json(found)
    else:
        print_table(SUBNET_HEADS, [_subnet_row(one) for one in found], empty="there are no subnets")


@subnet.command("show")
@click.argument("name")
@output_option
@pass_session
def show_subnet(session: Session, name: str) -> None:
    """Show one subnet."""
    found = session.client().get(f"/v1/subnets/{quote(name, safe='')}")
    if session.json:
        print_json(found)
        return
    print_facts(
        {
            "subnet": found["name"],
            "vpc": found["vpc"],
            "vni": found["vxlanid"] or "none: local to this host",
            "gateways": [gateway for gateway in (found["gateway_v4"], found["gateway_v6"]) if gateway],
            "mtu": found["mtu"],
            "vms": found["vms"],
        }
    )


def _subnet_row(found: Json) -> tuple[object, ...]:
    gateways = " ".join(str(one) for one in (found["gateway_v4"], found["gateway_v6"]) if one)
    return found["name"], found["vpc"], found["vxlanid"] or "local", found["mtu"], gateways, len(texts(found["vms"]))

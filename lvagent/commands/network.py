"""``lvagent vpc`` and ``lvagent subnet``."""

from __future__ import annotations

from urllib.parse import quote

import click

from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, objects, print_facts, print_json, print_table, texts

SUBNET_HEADS = ("SUBNET", "VPC", "VNI", "MTU", "GATEWAYS", "VMS")


@click.group()
def vpc() -> None:
    """List and show VPCs. They are there while a VM is in them."""


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
    found = session.client().get(f"/v1/vpcs/{quote(name, safe='')}")
    if session.json:
        print_json(found)
        return
    print_facts({"vpc": found["name"], "namespace": found["netns"], "domain": found["domain"], "vms": found["vms"]})
    click.echo()
    print_table(SUBNET_HEADS, [_subnet_row(one) for one in objects(found["subnets"])], empty="no subnets")


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

"""``lvagent vm``: VMs."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, cast

import click

from lvagent.commands import access, inward, monitor
from lvagent.commands.failure import Failure
from lvagent.commands.session import Session, output_option, pass_session
from lvagent.commands.tables import Json, objects, plain, print_facts, print_json, print_table, texts

ACTIONS = {
    "start": "Start a VM.",
    "shutdown": "Ask a VM's guest to shut down (ACPI).",
    "stop": "Stop a VM at once, as if its power were cut.",
    "reboot": "Ask a VM's guest to reboot.",
    "reset": "Reset a VM at once, as its reset button would.",
    "pause": "Halt a VM's CPUs.",
    "resume": "Let a paused VM's CPUs run again.",
    "accept": "Take what somebody changed in a VM's definition by hand as wanted.",
    "restore": "Undo what somebody changed in a VM's definition by hand.",
}


@click.group()
def group() -> None:
    """Make, list, show, start, stop, enter and delete VMs."""


def _phase_printer(session: Session) -> Callable[[str, float], None]:
    def show(phase: str, ms: float) -> None:
        if not session.json:
            click.echo(f"  {plain(phase):<12}{ms:>10.1f} ms")

    return show


@group.command()
@click.option("-f", "--file", type=click.File("rb"), required=True, help="The VM as JSON; - is standard input.")
@output_option
@pass_session
def create(session: Session, file: IO[bytes]) -> None:
    """Make a VM and start it.

    The same VM again is fine; one of this id that is different is a conflict (see apply).
    """
    operation = session.client().change("POST", "/v1/vms", file.read(), _phase_printer(session))
    _summary(session, operation)


@group.command()
@click.option("-f", "--file", type=click.File("rb"), required=True, help="The VM as JSON; - is standard input.")
@output_option
@pass_session
def apply(session: Session, file: IO[bytes]) -> None:
    """Make a VM, or change it to what the file says."""
    raw = file.read()
    operation = session.client().change("PUT", f"/v1/vms/{_id_in(raw)}", raw, _phase_printer(session))
    _summary(session, operation)


def _id_in(raw: bytes) -> str:
    from urllib.parse import quote

    from lvagent.spec.json import fold, load

    document = load(raw, max_bytes=1 << 26)
    found = {fold(key): value for key, value in document.items()} if isinstance(document, dict) else {}
    if not isinstance(found.get("id"), str) or not found["id"]:
        raise Failure("the VM has no id", path="id", hint='"i-" and ten digits')
    return quote(found["id"], safe="")


def _summary(session: Session, operation: Json) -> None:
    result = operation.get("result") or operation
    assert isinstance(result, dict)
    if session.json:
        print_json(result)
        return
    ident = plain(result["id"])
    if result["outcome"] == "created":
        access.forget_host_key(session, ident)
    click.echo(f"{ident} {plain(result['outcome'])}, {plain(result['state'])}")
    for port in objects(result["ports"]):
        click.echo(f"  {plain(port['vpc'])}  {plain(port['subnet'])}  {'  '.join(texts(port['addresses']))}")
    if needed := texts(result["restart_needed"]):
        click.echo(f"  at its next start: {', '.join(needed)}")
    click.echo(f"  lvagent vm ssh {ident}")


@group.command("ls")
@output_option
@pass_session
def list_(session: Session) -> None:
    """List all VMs."""
    found = session.client().items("/v1/vms")
    if session.json:
        print_json(found)
        return
    heads = ("ID", "STATE", "CPUS", "MEMORY", "VPC", "ADDRESSES", "NOTE")
    print_table(heads, [_row(vm) for vm in found], empty="there are no VMs")


def _row(vm: Json) -> tuple[object, ...]:
    ports = objects(vm["ports"])
    addresses = [address.split("/")[0] for port in ports for address in texts(port["addresses"])]
    vpcs = dict.fromkeys(str(port["vpc"]) for port in ports)
    return vm["id"], vm["state"], vm["cpus"], f"{vm['memory_mb']} MiB", " ".join(vpcs), " ".join(addresses), _note(vm)


def _note(vm: Json) -> str:
    notes = [
        "failed" if vm["error"] else "",
        "needs a restart" if "guest" in _places(vm) else "",
        "changed by hand" if "definition" in _places(vm) else "",
        f"should be {vm['wanted']}" if vm["wanted"] != vm["state"] and vm["state"] in ("running", "stopped") else "",
        "not seen lately" if vm["stale"] else "",
    ]
    return ", ".join(note for note in notes if note)


def _places(vm: Json) -> set[object]:
    """Where it differs from what is wanted: its guest, its definition."""
    return {one["place"] for one in objects(vm["drift_details"])}


def _drift(vm: Json, place: str) -> list[str]:
    found = [one for one in objects(vm["drift_details"]) if one["place"] == place]
    return [f"{one['path']}: wanted {_value(one['wanted'])}, is {_value(one['actual'])}" for one in found]


def _value(value: object) -> object:
    return "none" if value is None else value


@group.command()
@click.argument("ident", metavar="ID")
@output_option
@pass_session
def rules(session: Session, ident: str) -> None:
    """Show the rules of a VM, what each let through, and what none did."""
    found = session.client().get(f"{access.path_of(ident)}/rules")
    if session.json:
        print_json(found)
        return
    heads = ("DIRECTION", "PROTO", "PORT", "SOURCE", "DESTINATION", "PACKETS", "BYTES", "LAST HIT", "NOTE")
    refused = cast(dict[str, Json], found["refused"])
    lines = [_rule_row(rule) for rule in objects(found["rules"])]
    lines += [(way, "(refused)", "", "", "", one["packets"], one["bytes"], "", "") for way, one in refused.items()]
    print_table(heads, lines, empty="")


def _rule_row(rule: Json) -> tuple[object, ...]:
    first, last = rule["port"] or "", rule["port_end"]
    ports = f"{first}-{last}" if last else first
    peers = [rule[side] or "any" for side in ("source", "destination")]
    note, hit = "published" if rule["implied"] else "", rule["last_hit"] or "-"
    return rule["direction"], rule["proto"], ports, *peers, rule["packets"], rule["bytes"], hit, note


@group.command()
@click.argument("ident", metavar="ID")
@output_option
@pass_session
def show(session: Session, ident: str) -> None:
    """Show one VM."""
    vm = session.client().get(access.path_of(ident))
    if session.json:
        print_json(vm)
        return
    timings = [f"{time['phase']} {time['ms']} ms" for time in objects(vm["timings"])]
    process = cast(Json | None, vm["process"])
    facts = {
        "id": vm["id"],
        "state": f"{vm['state']} ({vm['reason']})" if vm["reason"] else vm["state"],
        "wanted": vm["wanted"],
        "error": vm["error"],
        "cpus": vm["cpus"],
        "memory": f"{vm['memory_mb']} MiB",
        "since": vm["changed_at"],
        "restart": vm["restart"],
        "pid": vm["pid"] if process is None else f"{process['pid']} ({process['state']} since {process['started_at']})",
        "revision": vm["revision"],
        "at next start": _drift(vm, "guest"),
        "edited": _drift(vm, "definition"),
        "user data": "yes" if vm["has_user_data"] else "",
        "timings": timings,
        "seen": f"{vm['observed_at']}{' (libvirt is away)' if vm['stale'] else ''}",
    }
    print_facts(facts)
    _show_parts(vm)


def _show_parts(vm: Json) -> None:
    click.echo()
    ports = [
        (port["position"], port["tap"], port["mac"], port["subnet"], " ".join(texts(port["addresses"])))
        for port in objects(vm["ports"])
    ]
    print_table(("NIC", "TAP", "MAC", "SUBNET", "ADDRESSES"), ports, empty="no NICs")
    click.echo()
    if vm["published"] or vm["floating"]:
        print_facts({"published": inward.told(objects(vm["published"])), "floating": vm["floating"]})
        click.echo()
    disks = [
        (disk["position"], disk["path"], disk["image"], disk["size_gb"] and f"{disk['size_gb']} GiB")
        for disk in objects(vm["volumes"])
    ]
    print_table(("DISK", "PATH", "IMAGE", "SIZE"), disks, empty="no volumes")
    click.echo()
    rules = [
        (
            rule["direction"] or "auto",
            rule["proto"],
            _ports(rule),
            rule["source"] or "any",
            rule["destination"] or "any",
        )
        for rule in objects(vm["rules"])
    ]
    print_table(("RULE", "PROTO", "PORT", "FROM", "TO"), rules, empty="no rules: ingress is closed")


def _ports(rule: Json) -> str:
    last = f"-{rule['port_end']}" if rule["port_end"] else ""
    return f"{rule['port']}{last}" if rule["port"] else "all"


@group.command()
@click.argument("ident", metavar="ID")
@click.option(
    "--grace", type=click.FloatRange(0, 3600), default=0, help="Seconds for the guest to shut down by itself."
)
@click.option("--volumes", is_flag=True, help="Also delete the volumes that the agent made for it.")
@output_option
@pass_session
def delete(session: Session, ident: str, grace: float, volumes: bool) -> None:
    """Stop a VM, and remove it with all that no other VM needs."""
    query = f"?grace={grace:g}&volumes={'delete' if volumes else 'keep'}"
    operation = session.client().change("DELETE", access.path_of(ident) + query, None, _phase_printer(session))
    access.forget_host_key(session, ident)
    if session.json:
        print_json(operation)
    else:
        click.echo(f"{ident} deleted")


def _add_action(name: str, about: str) -> None:
    @group.command(name, help=about)
    @click.argument("ident", metavar="ID")
    @output_option
    @pass_session
    def act(session: Session, ident: str) -> None:
        operation = session.client().change("POST", f"{access.path_of(ident)}/{name}", None, lambda _phase, _ms: None)
        result = operation.get("result") or operation
        assert isinstance(result, dict)
        if session.json:
            print_json(result)
        else:
            click.echo(f"{ident} {plain(result['state'])}")


for _name, _about in ACTIONS.items():
    _add_action(_name, _about)
group.add_command(access.console)
group.add_command(access.ssh)
group.add_command(access.log)
group.add_command(inward.ports)
group.add_command(monitor.qmp)
group.add_command(monitor.hmp)

"""What of VMs is to be reached from outside: published ports, and floating addresses.

Wishes of their own, beside the specs: a publication belongs to a VM and goes with it, a floating address is led to one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from lvagent.errors import SpecError
from lvagent.spec.addresses import Net, check_unicast, parse_address, parse_net
from lvagent.spec.schema import schema_of
from lvagent.spec.shape import validate
from lvagent.spec.vm import Direction, NetRule

MAX_PUBLICATIONS = 256
"""Of one VM."""
MAX_SOURCES = 64
MAX_MOVED = 1024
"""Ports of a range whose ports are others inside: each of them is an entry of its own in the kernel."""

EXAMPLE: JsonDict = {
    "proto": "tcp",
    "host_address": "192.0.2.10",
    "host_port": 8080,
    "host_port_end": 8089,
    "port": 80,
    "port_end": 89,
    "sources": ["198.51.100.0/24"],
}

Port = Annotated[int, Field(ge=1, le=65_535)]


@dataclass(frozen=True, slots=True)
class Publication:
    """Ports of the host that lead to ports of a VM.

    ``address``: of the host; '' for any. ``first`` to ``last``: ports of the host. ``port``: that of the VM to which
    ``first`` leads; the others follow in their order. ``sources``: who may come, sorted; none: anybody.
    """

    proto: str
    address: str
    first: int
    last: int
    port: int
    sources: tuple[Net, ...] = ()

    @property
    def port_end(self) -> int:
        """The VM's last port."""
        return self.port + self.last - self.first

    @property
    def moved(self) -> bool:
        """Whether the VM's ports are other numbers than the host's."""
        return self.port != self.first

    def sources_of(self, version: int) -> tuple[Net, ...]:
        """The nets of an IP version from which may be come; none: from nowhere."""
        everywhere = ip_network("0.0.0.0/0") if version == 4 else ip_network("::/0")
        return tuple(net for net in self.sources if net.version == version) if self.sources else (everywhere,)

    def meets(self, other: Publication) -> bool:
        """Whether a packet could be for both."""
        addresses = {self.address, other.address}
        return self.alike(other) and (len(addresses) == 1 or "" in addresses)

    def alike(self, other: Publication) -> bool:
        """Whether they have ports of the host in common, on whichever addresses."""
        return self.proto == other.proto and self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        where = f" on {self.address}" if self.address else ""
        return f"{self.proto} port {ports}{where}"


class PublicationModel(BaseModel):
    """Ports of the host that lead to ports of a VM."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [EXAMPLE]})

    proto: Literal["tcp", "udp"] = Field("tcp", description="tcp or udp", examples=["tcp"])
    host_address: str | None = Field(
        None, max_length=64, description="an address of the host; null or empty: any of them", examples=["192.0.2.10"]
    )
    host_port: Port = Field(description="port of the host, 1 to 65535; of a range the first", examples=[8080])
    host_port_end: Port | None = Field(None, description="the last port of a range of the host", examples=[8089])
    port: Port | None = Field(None, description="port of the VM; of a range the first; absent: the same", examples=[80])
    port_end: Port | None = Field(
        None, description="the last port of the VM's range, which is as long as the host's; absent: so", examples=[89]
    )
    sources: list[str] | None = Field(
        None,
        max_length=MAX_SOURCES,
        description=f"who may come: at most {MAX_SOURCES} CIDRs or addresses; none: anybody",
        examples=[["198.51.100.0/24"]],
    )


def parse_publications(document: object) -> tuple[Publication, ...]:
    """The publications that a document describes, sorted.

    :param document: a list, as ``spec.json.load`` returns it (or ``dump_publications``).
    :raise SpecError: it describes none; with the JSON path.
    """
    if not isinstance(document, list):
        raise SpecError("", "must be a list of publications", 'such as [{"host_port": 8080, "port": 80}]; [] is none')
    if len(document) > MAX_PUBLICATIONS:
        raise SpecError("", f"there are too many: {len(document)}", f"at most {MAX_PUBLICATIONS}")
    found = [_publication(one, f"[{index}]") for index, one in enumerate(document)]
    for index, one in enumerate(found):
        for before, other in enumerate(found[:index]):
            if one.meets(other):
                hint = "a port of the host leads to one port"
                raise SpecError(f"[{index}].host_port", f"{one} is in [{before}] too", hint)
            if one.alike(other) and one.port - one.first != other.port - other.first:
                hint = "on each address a port leads to the same port; use another port of the host"
                raise SpecError(f"[{index}].port", f"{one} leads elsewhere in [{before}]", hint)
    return in_order(found)


def in_order(found: Iterable[Publication]) -> tuple[Publication, ...]:
    """Publications in the order in which they are kept."""
    return tuple(sorted(found, key=lambda one: (one.proto, one.first, one.last, one.address, one.port)))


def _publication(document: object, path: str) -> Publication:
    try:
        model = validate(document, PublicationModel, "a publication")
    except SpecError as error:
        at = f"{path}.{error.path}" if error.path else path
        raise SpecError(at, error.message, error.hint) from None
    first = model.host_port
    last = first if model.host_port_end is None else model.host_port_end
    port = first if model.port is None else model.port
    if last < first:
        raise SpecError(f"{path}.host_port_end", f"{last} is below {first}", "a range goes from host_port up to it")
    if port + last - first > 65_535:
        raise SpecError(f"{path}.port", f"{port} and {last - first} more go beyond 65535", "a lower port")
    if model.port_end is not None and model.port_end - port != last - first:
        text = f"{port}-{model.port_end} is not as long as {first}-{last}, the range of the host"
        raise SpecError(f"{path}.port_end", text, f"{port + last - first}, or leave it out")
    if port != first and last - first >= MAX_MOVED:
        hint = f"at most {MAX_MOVED}; a range that keeps its numbers may be of any length"
        raise SpecError(
            f"{path}.host_port_end", f"{last - first + 1} ports are too many to be given other numbers", hint
        )
    address = _host_address(model.host_address or "", f"{path}.host_address")
    sources = _sources(model.sources or [], f"{path}.sources")
    _check_families(address, sources, path)
    return Publication(model.proto, address, first, last, port, sources)


def _host_address(text: str, path: str) -> str:
    if not text:
        return ""
    address = parse_address(text, path, "such as 192.0.2.10")
    check_unicast(parse_net(str(address), path), path)
    return str(address)


def _sources(texts: Sequence[str], path: str) -> tuple[Net, ...]:
    nets = [parse_net(text, f"{path}[{index}]") for index, text in enumerate(texts)]
    four = collapse_addresses(net for net in nets if isinstance(net, IPv4Network))
    six = collapse_addresses(net for net in nets if isinstance(net, IPv6Network))
    return (*four, *six)


def _check_families(address: str, sources: Iterable[Net], path: str) -> None:
    for net in sources:
        if address and net.version != ip_address(address).version:
            text = f"{net} is not of the IP version of {address}"
            raise SpecError(f"{path}.sources", text, "leave it out, or leave host_address empty")


@dataclass(frozen=True, slots=True)
class Floating:
    """An address of the host's network that is led to a VM. ``interface``: the link that it is on; '': as set."""

    address: str
    vm: str
    interface: str = ""

    @property
    def version(self) -> int:
        """Its IP version."""
        return ip_address(self.address).version


class FloatingModel(BaseModel):
    """Where a floating address is led."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [{"vm": "i-0000000001"}]}
    )

    vm: str = Field(
        pattern=r"^i-[0-9]{10}$", description='the VM: "i-" and 10 digits', examples=["i-0000000001"], max_length=12
    )
    interface: str | None = Field(
        None,
        pattern=r"^[^\s/]{1,15}$",
        description="the host's link whose network it is of; absent: the setting uplink.interface, else that of the "
        "default route",
        examples=["eth0"],
    )


def parse_floating(address: str, document: object) -> Floating:
    """The wish that a document has for a floating address.

    :raise SpecError: it is no address that a host can have, or the document describes nothing.
    """
    found = floating_address(address)
    model = validate(document, FloatingModel, "a floating address")
    return Floating(found, model.vm, model.interface or "")


def floating_address(text: str) -> str:
    """An address in canonical spelling.

    :raise SpecError: it is none that a host can have.
    """
    address = parse_address(text, "address", "such as 192.0.2.50 or 2001:db8::50")
    check_unicast(parse_net(str(address), "address"), "address")
    return str(address)


def dump_floating(one: Floating) -> dict[str, object]:
    """The wish for a floating address as JSON values."""
    return {"vm": one.vm, "interface": one.interface or None}


def floating_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of where a floating address is led."""
    return schema_of(FloatingModel)


def dump_publication(one: Publication) -> dict[str, object]:
    """A publication as JSON values."""
    ranged = one.last > one.first
    return {
        "proto": one.proto,
        "host_address": one.address or None,
        "host_port": one.first,
        "host_port_end": one.last if ranged else None,
        "port": one.port,
        "port_end": one.port_end if ranged else None,
        "sources": [str(net) for net in one.sources],
    }


def dump_publications(found: Iterable[Publication]) -> list[dict[str, object]]:
    """Publications as JSON values; ``parse_publications`` of them gives the same again."""
    return [dump_publication(one) for one in found]


def digest(found: Iterable[Publication]) -> str:
    """By which one can tell whether they are the same still: hexadecimal."""
    text = json.dumps(dump_publications(found), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def publication_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of one publication."""
    return schema_of(PublicationModel)


def implied(found: Iterable[Publication], versions: Iterable[int]) -> tuple[NetRule, ...]:
    """The rules that let in what is published.

    :param versions: the IP versions in which the VM is reached.
    """
    known = set(versions)
    return tuple(rule for one in found for rule in _implied(one, known))


def _implied(one: Publication, versions: set[int]) -> Iterable[NetRule]:
    if one.address:
        versions = versions & {ip_address(one.address).version}
    sources = [""] if not one.sources else [str(net) for net in one.sources if net.version in versions]
    end = one.port_end if one.last > one.first else None
    for source in sources if versions else ():
        yield NetRule(one.proto, one.port, end, source, "", Direction.INGRESS)

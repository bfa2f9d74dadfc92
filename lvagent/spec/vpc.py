"""What is wanted of a VPC as a whole: its way out, its DNS, its MTU, metadata.

A wish of its own, beside the specs of VMs: it is there whether a VM is in the VPC or not. What it leaves open (null, or
not there) is as the agent's settings have it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from lvagent.errors import SpecError
from lvagent.spec.addresses import check_unicast, parse_address, parse_net
from lvagent.spec.json import quoted
from lvagent.spec.limits import MAX_MTU, MIN_MTU_V6
from lvagent.spec.schema import schema_of
from lvagent.spec.shape import validate

MAX_FORWARDERS = 8
DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
"""A DNS name in lower case."""

EXAMPLE: JsonDict = {
    "uplink": "nat",
    "forwarders": ["192.0.2.53"],
    "domain": "shop.internal",
    "mtu": 1400,
    "metadata": "on",
}


class UplinkMode(StrEnum):
    """The way out of a VPC: none; behind an address of the host; or with its own prefixes, as they are."""

    NONE = "none"
    NAT = "nat"
    ROUTED = "routed"


@dataclass(frozen=True, slots=True)
class VpcConfig:
    """What is wanted of a VPC; None: as the settings have it.

    ``forwarders``: DNS servers that are asked for names outside; empty: none is. ``domain``: its DNS domain, and what
    guests search in. ``mtu``: the most that a NIC gets which does not say its own, bytes. ``metadata``: whether it is
    served.
    """

    uplink: UplinkMode | None = None
    forwarders: tuple[str, ...] | None = None
    domain: str | None = None
    mtu: int | None = None
    metadata: bool | None = None

    def over(self, defaults: VpcConfig) -> VpcConfig:
        """This wish, and where it says nothing the defaults."""
        said = {
            field.name: value for field in dataclasses.fields(self) if (value := getattr(self, field.name)) is not None
        }
        return dataclasses.replace(defaults, **said)


DEFAULT = VpcConfig()
"""The wish of a VPC of which nothing was said."""


class VpcModel(BaseModel):
    """What is wanted of a VPC. Keys are matched ignoring case and underscores; null is the same as absent: as set."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra={"examples": [EXAMPLE]})

    uplink: Literal["none", "nat", "routed"] | None = Field(
        None,
        description="none, nat (behind an address of the host) or routed (its own prefixes, as they are)",
        examples=["nat"],
    )
    forwarders: list[str] | None = Field(
        None,
        max_length=MAX_FORWARDERS,
        description=f"addresses of DNS servers for names outside, at most {MAX_FORWARDERS}; []: such names are not "
        "asked for; absent: as set, else the host's",
        examples=[["192.0.2.53"]],
    )
    domain: str | None = Field(
        None,
        max_length=253,
        description="its DNS domain, in which guests search too: a name in lower case",
        examples=["shop.internal"],
    )
    mtu: int | None = Field(
        None,
        ge=MIN_MTU_V6,
        le=MAX_MTU,
        description=f"the most that a NIC gets which does not say its own, {MIN_MTU_V6} to {MAX_MTU} bytes",
        examples=[1400],
    )
    metadata: Literal["on", "off"] | None = Field(
        None, description="on or off: whether metadata is served to its guests", examples=["on"]
    )


def parse_vpc(document: object) -> VpcConfig:
    """The wish that a document describes.

    :param document: what ``spec.json.load`` returns (or ``dump_vpc``).
    :raise SpecError: it describes none; with the JSON path.
    """
    model = validate(document, VpcModel, "what is wanted of a VPC")
    return VpcConfig(
        uplink=None if model.uplink is None else UplinkMode(model.uplink),
        forwarders=None if model.forwarders is None else parse_forwarders(model.forwarders, "forwarders"),
        domain=None if model.domain is None else _domain(model.domain),
        mtu=model.mtu,
        metadata=None if model.metadata is None else model.metadata == "on",
    )


def parse_forwarders(found: Sequence[str], path: str) -> tuple[str, ...]:
    """Addresses of DNS servers, each once, in the order in which they stand.

    :raise SpecError: one is no address of a host.
    """
    addresses = []
    for index, text in enumerate(found):
        address = parse_address(text, f"{path}[{index}]", "such as 192.0.2.53")
        check_unicast(parse_net(str(address), f"{path}[{index}]"), f"{path}[{index}]")
        addresses.append(str(address))
    return tuple(dict.fromkeys(addresses))


def _domain(text: str) -> str:
    if not DOMAIN.match(text):
        raise SpecError("domain", f"{quoted(text)} is no DNS name in lower case", "such as shop.internal")
    return text


def dump_vpc(config: VpcConfig) -> dict[str, object]:
    """The wish as JSON values; ``parse_vpc`` of them is the same wish again."""
    return {
        "uplink": None if config.uplink is None else config.uplink.value,
        "forwarders": None if config.forwarders is None else list(config.forwarders),
        "domain": config.domain,
        "mtu": config.mtu,
        "metadata": None if config.metadata is None else ("on" if config.metadata else "off"),
    }


def vpc_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of what is wanted of a VPC."""
    return schema_of(VpcModel)

"""From a JSON document to a VmConfig: the one way in.

What comes out is complete and means one thing: addresses with prefixes, MACs filled in, lists sorted by position,
protocols and nets in one spelling. So equal wishes are equal values, whatever their spelling was.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Iterator, Sequence

from lvagent.errors import SpecError
from lvagent.spec.conflicts import check_parts
from lvagent.spec.keys import parse_keys
from lvagent.spec.limits import MAX_USER_DATA
from lvagent.spec.nics import parse_nic
from lvagent.spec.rules import direction_of, parse_rule
from lvagent.spec.schema import EncodedModel, VmModel, vm_schema
from lvagent.spec.shape import validate
from lvagent.spec.vm import Datasource, Network, Restart, VmConfig, Volume
from lvagent.spec.volumes import parse_volume

__all__ = ["changes", "direction_of", "parse_vm", "vm_schema"]


def parse_vm(document: object, *, user_data_max: int = MAX_USER_DATA) -> VmConfig:
    """The VM that a document describes.

    :param document: what ``spec.json.load`` returns (or ``spec.dump.dump_vm``).
    :param user_data_max: the most that user data may have, in bytes.
    :raise SpecError: it describes none; the path has the indices of the caller's lists.
    """
    model = validate(document, VmModel, "a VM")
    volumes = [parse_volume(item, f"volumes[{index}]") for index, item in enumerate(model.volumes or ())]
    networks = [parse_nic(model.id, item, f"networks[{index}]") for index, item in enumerate(model.networks)]
    _check_positions([volume.position for volume in volumes], "volumes", "the boot disk")
    _check_positions([nic.position for nic in networks], "networks", "the first NIC")
    check_parts(networks, volumes)
    return _assembled(model, networks, volumes, user_data_max)


def _assembled(model: VmModel, networks: list[Network], volumes: list[Volume], user_data_max: int) -> VmConfig:
    return VmConfig(
        id=model.id,
        memory_mb=model.memory_mb,
        cpus=model.cpus,
        networks=tuple(sorted(networks, key=lambda nic: nic.position)),
        volumes=tuple(sorted(volumes, key=lambda volume: volume.position)),
        rules=tuple(parse_rule(item, f"rules[{index}]") for index, item in enumerate(model.rules or ())),
        keys=parse_keys(model.keys or (), "keys"),
        user_data=_user_data(model.user_data, user_data_max),
        datasource=Datasource(model.datasource) if model.datasource else None,
        restart=Restart(model.restart or Restart.ON_FAILURE),
    )


def _check_positions(positions: Sequence[int], path: str, zero: str) -> None:
    seen: dict[int, int] = {}
    for index, position in enumerate(positions):
        first = seen.setdefault(position, index)
        if first != index:
            at = f"{path}[{index}].position"
            raise SpecError(at, f"{path}[{first}] has position {position} too", "each position once")
    if positions and 0 not in seen:
        raise SpecError(path, "none has position 0", f"position 0 is {zero}")


def _user_data(value: str | EncodedModel | None, most: int) -> bytes | None:
    """The bytes; None if there are none. Errors do not repeat them."""
    if isinstance(value, EncodedModel):
        try:
            raw = base64.b64decode(value.base64, validate=True)
        except (ValueError, binascii.Error):
            raise SpecError("user_data.base64", "this is not base64", "RFC 4648, 4, without line breaks") from None
    else:
        raw = (value or "").encode()
    if len(raw) > most:
        raise SpecError("user_data", f"there are {len(raw)} bytes", f"at most {most}")
    return raw or None


def changes(old: VmConfig, new: VmConfig) -> tuple[str, ...]:
    """The paths of what differs between two specs: ``memory_mb``, ``networks[1].ipv4``, ``rules``.

    Volumes and NICs are told apart by position: one that came or went is named whole (``networks[1]``), with its index
    in the new spec if it came and in the old one if it went.
    """
    found = [
        path
        for field in dataclasses.fields(VmConfig)
        for path in _field_changes(field.name, getattr(old, field.name), getattr(new, field.name))
    ]
    return tuple(dict.fromkeys(found))


def _field_changes(name: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if name in ("networks", "volumes") and isinstance(old, tuple) and isinstance(new, tuple):
        yield from _part_changes(name, old, new)
    else:
        yield name


def _part_changes(name: str, old: Sequence[Network | Volume], new: Sequence[Network | Volume]) -> Iterator[str]:
    before = {part.position: part for part in old}
    after = {part.position: part for part in new}
    for index, part in enumerate(new):
        if part.position not in before:
            yield f"{name}[{index}]"
            continue
        for field in dataclasses.fields(part):
            if getattr(before[part.position], field.name) != getattr(part, field.name):
                yield f"{name}[{index}].{field.name}"
    yield from (f"{name}[{index}]" for index, part in enumerate(old) if part.position not in after)

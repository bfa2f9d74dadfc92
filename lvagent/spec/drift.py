"""Where what is there differs from what is wanted, field by field. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import cast

from lvagent.spec.dump import dump_vm
from lvagent.spec.parse import changes
from lvagent.spec.status import Drift, Place
from lvagent.spec.vm import VmConfig

_PART = re.compile(r"(networks|volumes)\[([0-9]+)\](?:\.(\w+))?")
Part = dict[str, object]


def differences(
    wanted: VmConfig, actual: VmConfig, place: Place, *, without: Collection[str] = ()
) -> tuple[Drift, ...]:
    """What differs between a wish and what is there, with the paths of ``spec.parse.changes``.

    User data is a secret: that it differs is told, and neither value.

    :param without: fields that are not looked at.
    """
    wish, there = dump_vm(wanted, secrets=False), dump_vm(actual, secrets=False)
    paths = [path for path in changes(actual, wanted) if path.split("[")[0] not in without]
    return tuple(Drift(path, _value(wish, there, path), _value(there, wish, path), place) for path in paths)


def _value(document: Part, other: Part, path: str) -> object:
    """What a document has at a path; the other is that with which it was compared. Parts are told by position."""
    found = _PART.fullmatch(path)
    if found is None:
        return document.get(path)
    name, index, field = found[1], int(found[2]), found[3]
    mine, others = cast(list[Part], document[name]), cast(list[Part], other[name])
    if field is None:  # it came, or it went: only one of the two has it at its position
        alone = [part for part in mine if part["position"] not in {one["position"] for one in others}]
        return next((part for part in alone if mine.index(part) == index), None)
    positions = [parts[index]["position"] for parts in (mine, others) if index < len(parts)]
    return next((part.get(field) for place in positions for part in mine if part["position"] == place), None)

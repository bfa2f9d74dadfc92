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
    if wanted == actual:
        return ()
    wish, there = dump_vm(wanted, secrets=False), dump_vm(actual, secrets=False)
    paths = [path for path in changes(actual, wanted) if path.split("[")[0] not in without]
    return tuple(Drift(path, *_values(wish, there, path), place) for path in paths)


def _values(wish: Part, there: Part, path: str) -> tuple[object, object]:
    """What both have at a path. Parts are told by position; an index is that in the wish, or of one that went."""
    found = _PART.fullmatch(path)
    if found is None:
        return wish.get(path), there.get(path)
    name, index, field = found[1], int(found[2]), found[3]
    wanted, actual = cast(list[Part], wish[name]), cast(list[Part], there[name])
    if field is None:
        return _alone(wanted, actual, index), _alone(actual, wanted, index)
    position = wanted[index]["position"]
    return wanted[index][field], next(part[field] for part in actual if part["position"] == position)


def _alone(parts: list[Part], others: list[Part], index: int) -> Part | None:
    """The part of this index, if no other has its position."""
    positions = {one["position"] for one in others}
    return parts[index] if index < len(parts) and parts[index]["position"] not in positions else None

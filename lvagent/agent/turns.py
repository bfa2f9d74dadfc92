"""The same for several VPCs, where one that fails is to keep none of the others from its turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from lvagent.errors import LvagentError

log = logging.getLogger(__name__)


def each(vpcs: Iterable[str], do: Callable[[str], object]) -> None:
    """Do something for each of them; what fails is logged."""
    for vpc in vpcs:
        _worked(vpc, do)


def first(vpcs: Iterable[str], do: Callable[[str], object]) -> None:
    """Do something for the first of them for which it works; what fails before is logged."""
    any(_worked(vpc, do) for vpc in vpcs)


def _worked(vpc: str, do: Callable[[str], object]) -> bool:
    try:
        do(vpc)
    except LvagentError as error:
        log.warning("%s: %s", vpc, error)
        return False
    return True

"""What ``doctor --fix`` deletes is what was found, and still is nobody's when it is deleted."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest

from lvagent.config import Settings
from lvagent.doctor.findings import Kind, Repair
from lvagent.doctor.fsck import Site
from lvagent.doctor.repair import Repairer
from lvagent.host.netspace import Netspace
from lvagent.spec import names
from tests.unit.doctor.test_doctor_fsck import well

pytestmark = pytest.mark.host

LINK = "lvx100"
REPAIR = Repair(Kind.LINK, LINK)


def make() -> None:
    subprocess.run(["ip", "link", "add", LINK, "group", str(names.LINK_GROUP), "type", "bridge"], check=True)


def there() -> bool:
    space = Netspace("")
    try:
        return LINK in space.links()
    finally:
        space.close()


def loose() -> Site:
    return dataclasses.replace(well(), links=frozenset({("", LINK)}))


def replaced() -> Site:
    """It went, and somebody made another one of its name; what is read is older than that."""
    subprocess.run(["ip", "link", "del", LINK], check=True)
    make()
    return loose()


def nobody() -> bool:
    raise AssertionError("no sweep is called for")


def test_a_link_that_nobody_wants_still_is_deleted(settings: Settings) -> None:
    make()
    Repairer(settings, nobody, loose).do(REPAIR)
    assert not there()
    Repairer(settings, nobody, loose).do(REPAIR)  # it is gone


def test_a_link_that_is_wanted_by_now_stays(settings: Settings) -> None:
    """Between the list and the yes of who reads it a VM may have come."""
    make()
    Repairer(settings, nobody, well).do(REPAIR)
    assert there()


def test_another_link_of_that_name_stays(settings: Settings) -> None:
    make()
    Repairer(settings, nobody, replaced).do(REPAIR)
    assert there()

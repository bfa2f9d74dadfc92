"""One faulty host for each module of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import IMAGES
from tests.e2e.faults.faulty import Faulty
from tests.e2e.faults.operations import FLOAT, A, B, first, second
from tests.lab.host import LabHost


@pytest.fixture(scope="module")
def faulty() -> Iterator[Faulty]:
    """A host with libvirtd, the hook, and an agent with failpoints of which none is armed."""
    with LabHost(images=IMAGES) as lab:
        lab.start_libvirtd()
        lab.run(["lvagent", "hook", "install"])
        lab.reload_libvirtd()
        lab.path("/run/lvagent").mkdir()
        found = Faulty(lab)
        found.arm()
        found.start()
        found.clear()
        assert [found.put(first()), found.put(second())] == [201, 200]  # every VPC was there once: lock files stay
        assert found.peer("PUT", A, B) == 201  # the folder of such wishes stays too
        opened = [found.want(A, {"uplink": "nat"}), found.publish(8080), found.float(FLOAT)]
        assert opened == [200, 200, 200]  # and those of these
        found.clear()
        yield found

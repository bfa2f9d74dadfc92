"""The kernel's filter is tried before it is needed, where nobody sees it."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest

from lvagent.config import FilterSettings
from lvagent.errors import HostError
from lvagent.host import kernel_filter
from lvagent.host.network import Network

pytestmark = pytest.mark.host


def test_it_is_tried_and_said_and_nothing_is_left(
    place: Path, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    network.prepare()
    network.prepare()
    said = [record.getMessage() for record in caplog.records if "br_netfilter" in record.getMessage()]
    assert len(said) == 1
    assert ("lacks" in said[0]) is not kernel_filter.bridge_conntrack()
    assert subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True).stdout == b""


def test_a_kernel_that_cannot_is_told_before_a_vm_needs_it(place: Path) -> None:
    with pytest.raises(HostError, match="cannot use the kernel's filter") as refused:
        kernel_filter.check(FilterSettings(flows=-1))
    assert "modules" in refused.value.hint

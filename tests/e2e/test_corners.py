"""What hands do to domains of ours, on a real libvirtd: nothing under a running guest goes, nothing of a stranger's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.e2e.specs import nic, vm
from tests.lab.host import LabHost

pytestmark = pytest.mark.e2e

A, VM, OTHER = "vpc-aaaaaaaaaa", "i-0000000001", "i-0000000002"
FILE = "/run/domain.xml"


@pytest.fixture
def host(agent_lab: LabHost) -> Iterator[LabHost]:
    """The lab with one running VM; empty again afterwards."""
    assert agent_lab.api("PUT", f"/v1/vms/{VM}", vm(1, nic(host=5))).status == 201
    yield agent_lab
    for one in agent_lab.api("GET", "/v1/vms").json["items"]:
        assert agent_lab.api("DELETE", f"/v1/vms/{one['id']}").status == 204
    assert agent_lab.virsh("list", "--all", "--name").stdout.split() == []
    assert A not in agent_lab.namespaces()


def restart(lab: LabHost) -> None:
    lab.kill_agent()
    lab.start_agent()


def define(lab: LabHost, xml: str) -> None:
    lab.path(FILE).write_text(xml)
    lab.virsh("define", FILE)
    lab.path(FILE).unlink()


def config(lab: LabHost) -> str:
    return str(lab.virsh("dumpxml", "--inactive", VM).stdout)


def bare(xml: str) -> str:
    """The same domain without our element."""
    return re.sub(r"<metadata>.*?</metadata>", "", xml, flags=re.DOTALL)


def test_a_running_vm_that_was_undefined_is_kept_and_can_be_deleted(host: LabHost) -> None:
    host.virsh("undefine", VM)
    restart(host)
    assert host.api("GET", f"/v1/vms/{VM}").json["state"] == "running"
    assert "t0000000001-0" in host.run(["ip", "-n", A, "-br", "link"]).stdout
    assert host.api("DELETE", f"/v1/vms/{VM}").status == 204


def test_a_definition_without_our_element_takes_nothing_from_the_running_guest(host: LabHost) -> None:
    define(host, bare(config(host)))
    without = config(host)
    restart(host)
    told = host.api("GET", f"/v1/vms/{VM}").json
    assert (told["state"], config(host)) == ("running", without)
    assert host.api("PUT", f"/v1/vms/{VM}", vm(1, nic(host=5))).status == 200
    assert "urn:lvagent:vm:1" in config(host)


def test_a_stopped_domain_without_our_element_is_a_strangers(host: LabHost) -> None:
    host.virsh("destroy", VM)
    define(host, bare(config(host)))
    stranger = config(host)
    answers = [host.api("DELETE", f"/v1/vms/{VM}").status, host.api("PUT", f"/v1/vms/{VM}", vm(1)).status]
    assert (answers, config(host)) == ([409, 409], stranger)
    host.virsh("undefine", VM)
    assert host.api("PUT", f"/v1/vms/{VM}", vm(1)).status == 201


def test_under_a_running_vm_that_cannot_be_read_nothing_goes(host: LabHost) -> None:
    whole = config(host)
    host.virsh("metadata", VM, "urn:lvagent:vm:1", "--live", "--config", "--key", "lvagent", "--set", "<vm/>")
    before = host.run(["ip", "-n", A, "-br", "link"]).stdout
    restart(host)
    assert host.api("PUT", f"/v1/vms/{OTHER}", vm(2, nic(host=6))).status == 201
    assert host.api("DELETE", f"/v1/vms/{OTHER}").status == 204
    assert host.run(["ip", "-n", A, "-br", "link"]).stdout == before
    assert VM in host.run(["sh", "-c", f"cat /run/lvagent/dnsmasq/{A}/*/*"]).stdout
    define(host, whole)
    restart(host)
    assert host.api("GET", f"/v1/vms/{VM}").json["state"] == "running"

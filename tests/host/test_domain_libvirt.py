"""What libvirt makes of our XML: nothing is dropped, nothing is renamed, and qemu starts with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import libvirt
import pytest
from lxml import etree

from lvagent.render.domain import SPARE_PORTS, DomainOptions, domain_xml, validate
from lvagent.render.element import KEY, find_element, parse_element, render_element
from lvagent.spec.names import ELEMENT_NAMESPACE
from lvagent.spec.vm import VmConfig
from tests.lab.host import LabHost
from tests.unit.render.domain_cases import CASES, HOSTILE_VM, disk, element, nic, rendered, vm

pytestmark = pytest.mark.host

TOLD = {"machine", "unit"}
"""Attributes that libvirt writes in words of its own: the machine's version, KiB."""

SIZES = ("memory", "currentMemory", "features/tcg/tb-cache")
"""Elements whose numbers it turns into KiB."""

EMULATED = [case for case, (_, options) in CASES.items() if options.accel == "qemu"]


@pytest.fixture(scope="module")
def lab() -> Iterator[LabHost]:
    """A host with a libvirtd of its own."""
    with LabHost() as host:
        host.start_libvirtd()
        yield host


@pytest.fixture
def fake() -> Iterator[libvirt.virDomain]:
    """A domain of libvirt's test driver, in this process."""
    connection = libvirt.open("test:///default")
    yield connection.lookupByName("test")
    connection.close()


def test_set_metadata_takes_the_element_and_gives_it_back(fake: libvirt.virDomain) -> None:
    for revision in (1, 2):
        given = replace(element(HOSTILE_VM), revision=revision, files=("/a\x01\ud800 <&>'\"",))
        fake.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, render_element(given), KEY, ELEMENT_NAMESPACE, 0)
        assert parse_element(fake.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, ELEMENT_NAMESPACE, 0)) == given
        text = find_element(fake.XMLDesc())
        assert text is not None
        assert parse_element(text) == given


def said(xml: str) -> set[tuple[str, str, str]]:
    """What an XML says, apart from order and from the element of ours: paths with attributes and texts."""
    root = etree.fromstring(xml.encode())
    found: set[tuple[str, str, str]] = set()
    for node in root.iter():
        steps = [str(up.tag) for up in (*reversed(list(node.iterancestors())), node)]
        path = "/".join(steps[1:])
        if not path or path.startswith("metadata/") or path in SIZES:
            continue
        found.add((path, "", (node.text or "").strip()))
        found |= {(path, str(name), str(value)) for name, value in node.attrib.items() if name not in TOLD}
    return found


def sizes(xml: str) -> list[int]:
    """The sizes that an XML gives, in KiB."""
    root = etree.fromstring(xml.encode())
    nodes = [node for path in SIZES for node in root.iterfind(path)]
    return [int(node.text or "") * {"KiB": 1, "MiB": 1024}[str(node.get("unit"))] for node in nodes]


@pytest.mark.parametrize("case", EMULATED)
def test_libvirt_drops_nothing(lab: LabHost, case: str) -> None:
    spec, options = CASES[case]
    xml = rendered(spec, options)
    with defined(lab, xml) as domain:
        there = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert said(xml) - said(there) == set()
    assert parse_element(there) == element(spec)
    assert sizes(there) == sizes(xml)


@contextlib.contextmanager
def defined(lab: LabHost, xml: str) -> Iterator[libvirt.virDomain]:
    """A domain as long as the block lasts."""
    connection = libvirt.open(lab.libvirt_uri)
    try:
        domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        try:
            yield domain
        finally:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    finally:
        connection.close()


def with_disk(lab: LabHost, spec: VmConfig) -> VmConfig:
    for volume in spec.volumes:
        lab.run(["qemu-img", "create", "-q", "-f", "qcow2", volume.path, "1M"])
    return spec


STARTED = {
    "bios": DomainOptions(),
    "uefi": DomainOptions(firmware="uefi"),
    "pc": DomainOptions(machine="pc", datasource="openstack"),
    "maximum": DomainOptions(cpu="maximum", datasource="ec2"),
    "fast": DomainOptions(fast_capabilities=True),
}


@pytest.mark.parametrize("case", STARTED)
def test_qemu_starts_with_it(lab: LabHost, case: str) -> None:
    spec = with_disk(lab, vm(volumes=[disk(0), disk(3, readonly=True)], networks=[nic(0, mtu=1400), nic(5)]))
    text = domain_xml(spec, STARTED[case], render_element(element(spec)), mtus={5: 1450})
    with defined(lab, text) as domain:
        domain.create()
        live = domain.XMLDesc()
        root = etree.fromstring(live.encode())
        taps = {
            name: int(lab.run(["cat", f"/sys/class/net/{name}/mtu"]).stdout)
            for name in (str(node.get("dev")) for node in root.iterfind("devices/interface/target"))
        }
        assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
        command = lab.run(["sh", "-c", f"tr '\\0' ' ' </proc/{_pid(lab, spec.id)}/cmdline"]).stdout
        _element_can_be_changed(domain, spec)
    assert taps == {"t0000000001-0": 1400, "t0000000001-5": 1450}
    assert [size in command for size in ('"host_mtu":1400', '"host_mtu":1450')] == [True, True]
    validate(live)


def _pid(lab: LabHost, name: str) -> str:
    return lab.run(["cat", f"/run/libvirt/qemu/{name}.pid"]).stdout.strip()


def _element_can_be_changed(domain: libvirt.virDomain, spec: VmConfig) -> None:
    both = libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_AFFECT_LIVE
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    for revision in (2, 3):
        given = replace(element(spec), revision=revision, created="2026-11-23T21:00:00Z")
        domain.setMetadata(kind, render_element(given), KEY, ELEMENT_NAMESPACE, both)
        assert parse_element(domain.XMLDesc()) == given
        assert parse_element(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) == given


def test_the_console_is_logged(lab: LabHost) -> None:
    with defined(lab, rendered(vm())) as domain:
        domain.create()
    owner = lab.run(["stat", "-c", "%s %U", DomainOptions().console_log("i-0000000001")]).stdout
    assert owner.split()[1] == "root"


def test_another_disk_moves_no_nic(lab: LabHost) -> None:
    with defined(lab, rendered(vm(networks=[nic(0), nic(1)], volumes=[disk()]))) as domain:
        before = buses(domain.XMLDesc(), "interface")
        domain.connect().defineXML(rendered(vm(networks=[nic(0), nic(1)], volumes=[disk(), disk(1), disk(2)])))
        after = domain.XMLDesc()
    assert before == buses(after, "interface") == ["0x01", "0x02"]
    assert len(buses(after, "disk")) == 3


def test_ports_are_left_for_hot_plugging(lab: LabHost) -> None:
    with defined(lab, rendered(vm(volumes=[disk()]))) as domain:
        root = etree.fromstring(domain.XMLDesc().encode())
    ports = {int(str(node.get("index"))) for node in root.iterfind("devices/controller[@model='pcie-root-port']")}
    used = {int(str(node.get("bus")), 16) for node in root.iterfind("devices/*/address[@type='pci']")}
    assert len(ports - used) == SPARE_PORTS


def buses(xml: str, kind: str) -> list[str | None]:
    """The PCI buses of a kind of device."""
    return [node.get("bus") for node in etree.fromstring(xml.encode()).iterfind(f"devices/{kind}/address")]

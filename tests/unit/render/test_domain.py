"""The domain XML: whole texts, what single values become, and what is refused."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from lvagent.errors import SpecError
from lvagent.render.domain import Cpu, DomainOptions, cpu_of, disk_target, domain_uuid, domain_xml, validate
from lvagent.render.element import parse_element, render_element
from lvagent.spec.vm import Datasource, VmConfig
from tests.golden import golden
from tests.unit.render.domain_cases import CASES, KVM, disk, element, nic, rendered, vm


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    spec, options = CASES[case]
    golden(f"domain/{case}.xml", rendered(spec, options))


@pytest.mark.parametrize("case", CASES)
def test_libvirt_s_schema_takes_it(case: str) -> None:
    spec, options = CASES[case]
    validate(rendered(spec, options))


def test_the_schema_is_not_blind() -> None:
    with pytest.raises(SpecError, match="RELAXNG"):
        validate(rendered(vm()).replace("<acpi/>", "<acpi/><hostdev/>"))


@pytest.mark.parametrize("case", CASES)
def test_the_element_comes_back(case: str) -> None:
    spec, options = CASES[case]
    assert parse_element(rendered(spec, options)) == element(spec)


def test_the_text_is_the_same_each_time() -> None:
    volumes = [disk(2), disk(0), disk(1)]
    assert rendered(vm(volumes=volumes)) == rendered(vm(volumes=volumes[::-1]))


def attributes(spec: VmConfig, path: str, name: str) -> list[str | None]:
    return [node.get(name) for node in etree.fromstring(rendered(spec).encode()).iterfind(path)]


def test_disks_stand_in_the_order_of_their_positions() -> None:
    spec = vm(volumes=[disk(27), disk(0), disk(3)])
    assert attributes(spec, "devices/disk/target", "dev") == ["vda", "vdd", "vdab"]
    assert attributes(spec, "devices/disk/driver", "type") == ["qcow2"] * 3
    assert attributes(spec, "devices/disk/source", "file") == [volume.path for volume in spec.volumes]


def test_nics_stand_in_the_order_of_their_positions() -> None:
    spec = vm(networks=[nic(12), nic(0), nic(3)])
    assert attributes(spec, "devices/interface/target", "dev") == ["t0000000001-0", "t0000000001-3", "t0000000001-12"]
    assert attributes(spec, "devices/interface/mac", "address") == [network.mac for network in spec.networks]


def test_only_position_0_boots() -> None:
    root = etree.fromstring(rendered(vm(volumes=[disk(1), disk(0)])).encode())
    assert [node.getparent().find("serial").text for node in root.iterfind("devices/*/boot")] == ["i-0000000001-0"]  # type: ignore[union-attr]


def test_the_mtu_of_the_spec_goes_before_that_of_the_segment() -> None:
    spec = vm(networks=[nic(0), nic(1, mtu=1300), nic(2)])
    text = domain_xml(spec, DomainOptions(), render_element(element(spec)), mtus={0: 1450, 1: 1450})
    nics = etree.fromstring(text.encode()).findall("devices/interface")
    assert [[mtu.get("size") for mtu in one.findall("mtu")] for one in nics] == [["1450"], ["1300"], []]


@given(st.integers(0, 800))
def test_disk_targets_differ(position: int) -> None:
    names = [disk_target(place) for place in range(position + 1)]
    assert len(set(names)) == position + 1
    assert sorted(names, key=lambda name: (len(name), name)) == names


# the datasource


def smbios(spec: VmConfig, options: DomainOptions) -> dict[str | None, str | None]:
    root = etree.fromstring(rendered(spec, options).encode())
    entries = {entry.get("name"): entry.text for entry in root.iterfind("sysinfo/system/entry")}
    return {"uuid": root.findtext("uuid"), **entries}


def matches(values: dict[str | None, str | None]) -> set[Datasource]:
    """The datasources that cloud-init's ds-identify would find."""
    number, serial = str(values["uuid"]).lower(), (values.get("serial") or "").lower()
    swapped = uuid.UUID(number).bytes_le.hex()
    found = set()
    if number.startswith("ec2") or swapped.startswith("ec2") or serial.startswith("ec2"):
        found.add(Datasource.EC2)
        assert serial == number
    if serial.startswith("ds=nocloud"):
        found.add(Datasource.NOCLOUD)
    if values.get("product") in ("OpenStack Nova", "OpenStack Compute"):
        found.add(Datasource.OPENSTACK)
    return found


@given(st.integers(0, 9_999_999_999), st.sampled_from(Datasource))
def test_exactly_one_datasource_matches(number: int, datasource: Datasource) -> None:
    spec = replace(vm(), id=f"i-{number:010}")
    assert matches(smbios(spec, DomainOptions(datasource=datasource))) == {datasource}


def test_no_uuid_looks_like_amazon_s_by_accident() -> None:
    found = [domain_uuid(f"i-{number:010}") for number in range(20_000)]
    assert not [number for number in found if number.hex.startswith("ec2") or number.bytes_le.hex().startswith("ec2")]
    assert len(set(found)) == len(found)


def test_a_uuid_stays_what_it_is() -> None:
    assert str(domain_uuid("i-0000000001")) == "dac121f5-02e6-5ee3-9822-4515b94722ed"
    assert str(domain_uuid("i-0000000001", Datasource.EC2)) == "ec2121f5-02e6-5ee3-9822-4515b94722ed"


def test_the_vm_s_datasource_goes_before_the_host_s() -> None:
    values = smbios(vm(datasource="ec2"), DomainOptions(datasource="openstack"))
    assert matches(values) == {Datasource.EC2}


def test_a_guest_without_ipv4_is_sent_to_ipv6() -> None:
    spec, options = CASES["ipv6-only"]
    assert smbios(spec, options)["serial"] == "ds=nocloud-net;s=http://[fd00:ec2::254]/nocloud/"


# the CPU


@pytest.mark.parametrize(
    ("options", "cpu"),
    [
        (DomainOptions(), Cpu("custom", "partial", match="exact", model="Nehalem")),
        (KVM, Cpu("host-model", "partial")),
        (replace(KVM, cpu="host-passthrough"), Cpu("host-passthrough", "none", migratable="on")),
        (DomainOptions(cpu="maximum"), Cpu("maximum", "none", migratable="on")),
        (replace(KVM, cpu="EPYC-Rome"), Cpu("custom", "partial", match="exact", model="EPYC-Rome")),
    ],
)
def test_cpu(options: DomainOptions, cpu: Cpu) -> None:
    assert cpu_of(options) == cpu


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"accel": "tcg"}, "guests.accel"),
        ({"firmware": "efi"}, "guests.firmware"),
        ({"datasource": "azure"}, "guests.datasource"),
        ({"machine": "q35'"}, "guests.machine"),
        ({"cpu": "host-passthrough"}, "guests.cpu"),
        ({"cpu": "a b"}, "guests.cpu"),
    ],
)
def test_options_are_checked_when_they_are_made(wrong: dict[str, str], path: str) -> None:
    with pytest.raises(SpecError) as error:
        DomainOptions(**wrong)  # type: ignore[arg-type]
    assert error.value.path == path


@pytest.mark.parametrize("text", ["<vm/>", "<x/>", "<vm xmlns='urn:lvagent:vm:1'/><y/>", "text", ""])
def test_what_is_no_element_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        domain_xml(vm(), DomainOptions(), text)


def test_the_console_log_is_not_libvirt_s_own_log() -> None:
    assert DomainOptions().console_log("i-0000000001") == "/var/log/libvirt/qemu/i-0000000001-console.log"
    assert DomainOptions(consoles="").console_log("i-0000000001") == ""

"""No value leaves its place in the XML, and every valid VM is one that libvirt's schema takes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from lvagent.errors import SpecError
from lvagent.render.domain import DomainOptions, domain_xml, validate
from lvagent.render.element import parse_element, render_element
from lvagent.spec.dump import dump_vm
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import NetRule, Network, VmConfig, Volume
from tests.unit.render.domain_cases import FOLDER, HOSTILE, element, rendered

hostile = st.sampled_from(HOSTILE) | st.text(max_size=30)


def with_strings(text: str, accel: str = "kvm") -> tuple[VmConfig, DomainOptions]:
    """A VM and options with this text in every field that can hold one, also where parsing never lets it in."""
    v4, v6 = IPv4Interface("10.0.0.5/24"), IPv6Interface("fd00::5/64")
    nic = Network(
        1, text, text, 0, text, v4, IPv4Address("10.0.0.1"), v6, IPv6Address("fd00::1"), extra_macs=(text,), mtu=1400
    )
    spec = VmConfig(
        id=text,
        memory_mb=64,
        cpus=1,
        networks=(nic,),
        volumes=(Volume(text, 0, 1, text), Volume(text, 1, readonly=True)),
        rules=(NetRule(text, source=text, destination=text),),
        keys=(text,),
        user_data=text.encode(errors="replace"),
    )
    return spec, DomainOptions(accel=accel, emulator=f"/{text}", consoles=f"/{text}")


def structure(xml: str) -> list[tuple[str, list[str]]]:
    """What a parser sees apart from the values: each element's path, and its attributes' names."""
    tree = etree.fromstring(xml.encode()).getroottree()
    nodes = tree.getroot().iter()
    return [(tree.getelementpath(node), sorted(map(str, node.attrib))) for node in nodes]


BENIGN = structure(rendered(*with_strings("benign")))


@given(hostile)
@example("\r\n\t ")
@example("\x00")
@example("\ufffe")
def test_no_string_adds_or_takes_an_element(text: str) -> None:
    try:
        xml = rendered(*with_strings(text))
    except SpecError:
        return  # XML has no way to write it
    assert structure(xml) == BENIGN


@given(st.sampled_from(HOSTILE))
def test_such_strings_come_out_as_they_went_in(text: str) -> None:
    spec, options = with_strings(text)
    root = etree.fromstring(rendered(spec, options).encode())
    assert root.findtext("name") == text
    assert root.findtext("devices/emulator") == f"/{text}"
    assert [node.get("file") for node in root.iterfind("devices/disk/source")] == [text, text]
    assert [node.get("address") for node in root.iterfind("devices/interface/mac")] == [text]


@given(st.text(min_size=1, max_size=40))
@example("/a\nb")
@example("/a\tb")
@example("/a\rb")
@example("/a\ud800")
def test_a_path_is_written_exactly_or_not_at_all(path: str) -> None:
    spec = replace(with_strings("x")[0], volumes=(Volume(path, 0),))
    try:
        root = etree.fromstring(rendered(spec).encode())
    except SpecError:
        return
    assert [node.get("file") for node in root.iterfind("devices/disk/source")] == [path]


letters = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=10, max_size=10)
positions = st.lists(st.integers(1, 99), max_size=5, unique=True).map(lambda rest: [0, *rest])
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30).filter(str.isprintable)


@st.composite
def nics(draw: st.DrawFn) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for place, position in enumerate(draw(positions)):
        both = draw(st.sampled_from(["4", "6", "46"]))
        v4 = {"ipv4": f"10.{place}.0.5/24", "gateway_v4": f"10.{place}.0.1"} if "4" in both else {}
        v6 = {"ipv6": f"fd00:{place}::5/64", "gateway_v6": f"fd00:{place}::1"} if "6" in both else {}
        found.append(
            {
                "vxlanid": 0,
                "netname": "vpc-aaaaaaaaaa",
                "subnetname": f"subnet-{place:010}",
                "position": position,
                "mtu": draw(st.none() | st.integers(1280, 9216)),
                **v4,
                **v6,
            }
        )
    return found


@st.composite
def volumes(draw: st.DrawFn) -> list[dict[str, object]]:
    files = draw(st.lists(names, unique=True, max_size=5))
    places = [0, *draw(st.lists(st.integers(1, 99), min_size=len(files), max_size=len(files), unique=True))]
    return [
        {
            "path": f"{FOLDER}/{name}.qcow2",
            "position": place,
            "size_gb": draw(st.none() | st.integers(1, 65_536)),
            "image": draw(st.none() | st.just("tiny")),
        }
        for name, place in zip(files, places, strict=False)
    ]


vms = st.builds(
    lambda number, **more: parse_vm({"id": f"i-{number:010}", **more}),
    number=st.integers(0, 9_999_999_999),
    memory_mb=st.integers(16, 4_194_304),
    cpus=st.integers(1, 255),
    networks=nics(),
    volumes=volumes(),
    datasource=st.sampled_from([None, "nocloud", "ec2", "openstack"]),
    user_data=st.none() | st.text(max_size=20),
    rules=st.lists(st.fixed_dictionaries({"proto": st.sampled_from(["tcp", "udp"]), "port": st.integers(0, 65_535)})),
)
options = st.builds(
    DomainOptions,
    accel=st.sampled_from(["kvm", "qemu"]),
    cpu=st.sampled_from(["", "host-model", "maximum", "qemu64"]),
    machine=st.sampled_from(["q35", "pc", "pc-q35-7.2"]),
    firmware=st.sampled_from(["bios", "uefi"]),
    emulator=st.sampled_from(["", "/usr/bin/qemu-system-x86_64"]),
    datasource=st.sampled_from(["nocloud", "ec2", "openstack"]),
    consoles=st.sampled_from(["", "/var/log/libvirt/qemu"]),
    fast_capabilities=st.booleans(),
)


@given(vms, options)
def test_every_valid_vm_is_a_valid_domain(spec: VmConfig, how: DomainOptions) -> None:
    xml = rendered(spec, how)
    validate(xml)
    assert parse_element(xml) == element(spec)


@given(vms)
def test_user_data_is_not_in_it(spec: VmConfig) -> None:
    secret = "s3cret-5f2b"
    xml = rendered(replace(spec, user_data=secret.encode()))
    assert secret not in xml
    assert parse_element(xml).spec.user_data is None
    assert parse_element(xml).has_user_data


@given(vms)
def test_an_element_of_another_vm_is_taken_as_it_is(spec: VmConfig) -> None:
    text = render_element(element(spec))
    other = parse_vm({**dump_vm(spec, secrets=False), "memory_mb": 64})
    assert parse_element(domain_xml(other, DomainOptions(), text)) == element(spec)

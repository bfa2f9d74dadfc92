"""One property for each template: a hostile value makes no other structure than a tame one does, or is refused.

Values come in two ways: as what a client sends, through the parser; and past it, into the renderers' own arguments.
"""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree, html

from lvagent.errors import SpecError
from lvagent.plan import wanted
from lvagent.plan.resources import Dhcp, DhcpHost, DhcpSubnet, Guest
from lvagent.plan.wanted import Policy
from lvagent.render import dnsmasq, line, render
from lvagent.render.domain import DomainOptions
from lvagent.render.element import render_element
from lvagent.render.hook import hook_script
from lvagent.render.metadata import EC2_VERSIONS, OPENSTACK_VERSIONS, document
from lvagent.render.unit import service_unit
from lvagent.spec.json import load
from lvagent.spec.parse import parse_vm
from tests.unit.render import hostile as words
from tests.unit.render.domain_cases import KEY, KVM, element, rendered
from tests.unit.render.hostile import TAME, hostile, lines, structure

POLICY = Policy("lvfabric", 1500, "192.0.2.10", 4789, "vpc.internal", (), "x")
FOLDER = "/run/lvagent/dnsmasq/vpc-aaaaaaaaaa"
REFUSED = (SpecError, ValueError)
"""How a renderer refuses: UnicodeEncodeError, of what no file can hold, is a ValueError."""


# XML


def xml_of(text: str) -> str:
    options = replace(KVM, emulator=f"/{text}", consoles=f"/{text}")
    return rendered(words.vm(text), options)


XML = structure(xml_of(TAME))


@given(hostile)
def test_domain(text: str) -> None:
    try:
        xml = xml_of(text)
    except REFUSED:
        return
    assert structure(xml) == XML


DEVICES: dict[str, Callable[[str], dict[str, object]]] = {
    "devices/console.xml.j2": lambda text: {"console_log": f"/{text}"},
    "devices/cpu.xml.j2": lambda text: {
        "cpu": SimpleNamespace(
            mode=text, check=text, match=f"m{text}", migratable=f"m{text}", model=f"m{text}"
        )
    },
    "devices/disk.xml.j2": lambda text: {
        "disk": SimpleNamespace(path=text, target=text, serial=text, readonly=True, boot=True)
    },
    "devices/nic.xml.j2": lambda text: {"nic": SimpleNamespace(mac=text, tap=text, mtu=f"1{text}")},
}  # fmt: skip


@pytest.mark.parametrize("template", DEVICES)
def test_device(template: str) -> None:
    def xml(text: str) -> str:
        return f"<devices>{render(template, **DEVICES[template](text))}</devices>"

    @given(hostile)
    def none_breaks_out(text: str) -> None:
        try:
            found = structure(xml(text))
        except (etree.XMLSyntaxError, UnicodeEncodeError):
            return  # XML cannot say it, and libvirt is given what was read back
        assert found == structure(xml(TAME))

    none_breaks_out()


@given(hostile, st.sampled_from(["digest", "boot_id", "created", "power", "files", "spec"]))
def test_element(text: str, place: str) -> None:
    base = replace(element(words.vm(TAME)), created="now")
    changes = {"files": (text,), "spec": words.vm(text)}.get(place, text)
    try:
        xml = render_element(replace(base, **{place: changes}))
    except REFUSED:
        return
    assert structure(xml) == structure(render_element(base))


# lines


def dhcp(text: str, place: str) -> Dhcp:
    """What a dnsmasq serves, with a text in one place."""
    found = wanted.dhcp("vpc-aaaaaaaaaa", [words.tame_but(TAME)], POLICY)
    assert found is not None
    (host,), (subnet,) = found.hosts, found.subnets
    host_places = {"vm", "subnet", "mac", "ipv4", "ipv6"}
    if place in host_places:
        return replace(found, hosts=(replace(host, **{place: text}),))
    if place == "name":
        return replace(found, subnets=(replace(subnet, name=text),), hosts=(replace(host, subnet=text),))
    return replace(found, **{place: (text,) if place in ("forwarders", "private") else text})


SERVED = ("vm", "subnet", "mac", "ipv4", "ipv6", "name", "vpc", "domain", "forwarders", "private", "folder")


@given(hostile, st.sampled_from(SERVED))
def test_dnsmasq(text: str, place: str) -> None:
    several = {"forwarders": dhcp("10.0.0.53", "forwarders"), "private": dhcp("a", "private")}
    tame_value = several.get(place) or dhcp("a", "domain")
    if text == "" and place in ("ipv4", "ipv6"):  # as good as none
        tame_value = replace(tame_value, hosts=(replace(tame_value.hosts[0], **{place: None}),))
    try:
        value = tame_value if place == "folder" else dhcp(text, place)
        found = dnsmasq.texts(value, text if place == "folder" else FOLDER, 3600)
    except REFUSED:
        return
    tame = dnsmasq.texts(tame_value, FOLDER, 3600)
    assert [lines(one) for one in found.values()] == [lines(one) for one in tame.values()]
    assert [path.count("/") for path in found] == [path.count("/") for path in tame]
    assert keys_of(found["conf"]) == keys_of(tame["conf"])
    if place != "folder":
        assert [one.count(",") for one in found.values()] == [one.count(",") for one in tame.values()]


def keys_of(text: str) -> list[str]:
    return [row.partition("=")[0].partition(" ")[0] for row in text.splitlines()]


RAW: dict[str, Callable[[str], dict[str, object]]] = {
    "dnsmasq-host.j2": lambda text: {"fields": [text, text]},
    "dnsmasq-names.j2": lambda text: {"addresses": [text, text], "name": text, "domain": text},
    "dnsmasq.conf.j2": lambda text: {
        **dict.fromkeys(("vpc", "folder", "lease", "lease_max", "domain"), text),
        "forwarders": [text],
        "private": [text],
        "subnets": [
            SimpleNamespace(
                **dict.fromkeys(("name", "bridge", "mtu", "router_lifetime", "gateway_v4", "gateway_v6"), text),
                v4=(SimpleNamespace(network=text, netmask=text, prefix=text, gateway=text),),
                v6=(SimpleNamespace(network=text, netmask=text, prefix=text, gateway=text),),
            )
        ],
    },
    "image/debian/grub.cfg.j2": lambda text: {"cmdline": text},
    "image/tiny/grub.cfg.j2": lambda text: {"cmdline": text},
    "inward-root.nft.j2": lambda text: {
        "vpc": text,
        **{key: [(text, [(text, f"x{text}")])] for key in ("removed", "added")},
    },
    "inward.nft.j2": lambda text: {
        "digest": text,
        "families": [
            {"version": 4, "ip": text}
            | dict.fromkeys(("pool", "kept", "moved", "led", "floating", "seen", "pairs"), f"x{text}")
        ],
    },
    "libvirt-hook.sh.j2": lambda text: dict.fromkeys(("ask", "socket", "deadline", "python", "bootstrap"), text),
    "lvagent.service.j2": lambda text: {"command": text, "capabilities": [text]},
    "networkd.j2": lambda text: {"links": [text]},
    "networkmanager.j2": lambda text: {"links": [text, text]},
}
"""Templates of lines, and values with a text in each place that they have."""


@pytest.mark.parametrize("template", RAW)
def test_no_value_begins_a_line(template: str) -> None:
    @given(hostile)
    def none_does(text: str) -> None:
        try:
            found = render(template, **RAW[template](text))
        except ValueError:
            return
        assert lines(found) == found.count("\n") == lines(render(template, **RAW[template](TAME)))

    none_does()


@given(hostile)
def test_what_passes_as_a_line_is_one_and_can_be_written(text: str) -> None:
    try:
        found = str(line(text))
    except ValueError:
        return
    assert found == text
    assert len(f"{found}|".encode().decode().splitlines()) == 1


@given(hostile, hostile)
def test_unit(program: str, argument: str) -> None:
    try:
        text = service_unit([f"/usr/bin/{program}", argument])
    except REFUSED:
        return
    assert keys_of(text) == keys_of(service_unit(["/usr/bin/lvagent", "serve"]))
    row = next(row for row in text.split("\n") if row.startswith("ExecStart="))
    assert list(unit_words(row.removeprefix("ExecStart="))) == [f"/usr/bin/{program}", argument]


def unit_words(text: str) -> Iterator[str]:
    """The words of a command line of a unit, as systemd.service(5) and systemd.syntax(7) read them."""
    word, at, quoted = "", 0, False
    for_two = {"\\\\": "\\", '\\"': '"', "%%": "%", "$$": "$"}
    while at < len(text):
        two = text[at : at + 2]
        if two in for_two:
            word, at = word + for_two[two], at + 2
            continue
        assert text[at] not in "\\%$", "an escape, a specifier or a variable"
        assert quoted or text[at] not in "';", "other quotes, or the end of the command"
        if text[at] == '"':
            quoted = not quoted
        elif text[at] == " " and not quoted:
            yield word
            word = ""
        else:
            word += text[at]
        at += 1
    assert not quoted
    yield word


@given(hostile, hostile, hostile)
def test_hook(socket: str, python: str, bootstrap: str) -> None:
    try:
        text = hook_script(f"/run/{socket}", f"/usr/bin/{python}", bootstrap, 10.0)
    except REFUSED:
        return
    tame = hook_script("/run/lvagent/hook.sock", "/usr/bin/python3", "pass", 10.0)
    assert lines(text) == lines(tame)
    mine = [row for row in text.split("\n") if row not in tame.split("\n")]
    given = {f"/run/{socket}", f"/usr/bin/{python}", bootstrap}
    for row in mine:
        said = shlex.split(row.removesuffix("\\").replace('"$1"', "").replace('"$xml"', "").replace('"$left"', ""))
        assert given & set(said), row
    assert len(mine) <= 2


# documents


@given(hostile)
def test_page(text: str) -> None:
    def page(value: str) -> list[str]:
        route = SimpleNamespace(
            name=value, method="GET", path=value, summary=value, body=value, errors=(404,), role=value,
            query=[SimpleNamespace(name=value, description=value)],
            headers=[SimpleNamespace(name=value, description=value)],
            replies=[SimpleNamespace(status=200, description=value, schema=value)],
        )  # fmt: skip
        problem = {"get": {"responses": {"404": {"description": value}}}}
        info = {"title": value, "version": value, "description": value}
        one = {value: {"description": value, "properties": {value: {"description": value}}}}
        text = render("api.html.j2", document={"info": info, "paths": {value: problem}}, schemas=one, routes=[route])
        tree = html.fromstring(text.encode()).getroottree()
        return [tree.getpath(node) for node in tree.getroot().iter()]

    try:
        found = page(f"a{text}")
    except (UnicodeEncodeError, ValueError):
        return
    assert found == page(TAME)


TEXTS = [
    f"/{EC2_VERSIONS[-1]}/meta-data/{name}"
    for name in (
        "", "hostname", "instance-id", "local-hostname", "mac", "reservation-id", "public-keys", "local-ipv4",
        "public-keys/0/openssh-key", "placement/region",
    )
]  # fmt: skip
JSONS = [
    f"/{EC2_VERSIONS[-1]}/dynamic/instance-identity/document",
    *(f"/openstack/{OPENSTACK_VERSIONS[-1]}/{name}" for name in ("meta_data.json", "network_data.json")),
    "/nocloud/meta-data",
    "/nocloud/network-config",
]


def shape(value: object) -> object:
    """JSON without its values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else type(value)


def body(guest: Guest, path: str) -> bytes:
    found = document(guest, path)
    assert found is not None, path
    return found.body


GUEST = wanted.guest(words.tame_but(TAME), POLICY)


@given(hostile)
def test_metadata(text: str) -> None:
    nic = replace(GUEST.nics[0], mac=f"0{text}", subnet=text, vpc=text)
    found = Guest(text, text, (text,), (nic,), text.encode(errors="replace"))
    for path in TEXTS:
        assert body(found, path).count(b"\n") == body(GUEST, path).count(b"\n"), path
        assert len(body(found, path).decode().splitlines()) <= max(1, len(body(GUEST, path).splitlines())), path
    for path in JSONS:
        assert shape(json.loads(body(found, path))) == shape(json.loads(body(GUEST, path))), path
    assert len(body(found, "/latest/meta-data/network/interfaces/macs/").decode().splitlines()) == 1


# through the parser

SPEC: dict[str, object] = {
    "id": "i-0000000001",
    "memory_mb": 64,
    "cpus": 1,
    "networks": [
        {
            "vxlanid": 100, "netname": "vpc-aaaaaaaaaa", "subnetname": "subnet-aaaaaaaaaa", "position": 0,
            "ipv4": "10.0.0.5/24", "gateway_v4": "10.0.0.1", "mac": "06:00:00:00:00:01",
            "extra_addresses": ["10.9.0.0/24"], "extra_macs": ["06:00:00:00:00:99"],
        }
    ],
    "volumes": [{"path": "/var/lib/lvagent/volumes/a.qcow2", "position": 0, "image": "tiny"}],
    "rules": [{"proto": "tcp", "port": 22, "source": "10.0.0.0/8", "destination": ""}],
    "keys": [f"{KEY} comment"],
    "user_data": "x",
    "datasource": "nocloud",
}  # fmt: skip


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the strings of a spec are."""
    if isinstance(value, str):
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        yield from places(one, (*path, key))


PLACES = list(places(SPEC))


def with_text(path: tuple[str | int, ...], change: Callable[[str], str]) -> dict[str, object]:
    """The spec with one string changed."""
    found = copy.deepcopy(SPEC)
    at: object = found
    for key in path[:-1]:
        at = at[key]  # type: ignore[index]
    at[path[-1]] = change(at[path[-1]])  # type: ignore[index]
    return found


def all_of(spec: dict[str, object]) -> tuple[object, ...]:
    """The structure of all that is rendered from a spec."""
    vm = parse_vm(load(json.dumps(spec).encode(), max_bytes=1 << 20))
    vpc = vm.networks[0].netname
    served = wanted.dhcp(vpc, [vm], POLICY)
    guest = wanted.guest(vm, POLICY)
    assert served is not None
    texts = dnsmasq.texts(served, FOLDER, 3600)
    return (
        structure(rendered(vm, DomainOptions())),
        [(lines(text), text.count(",")) for text in texts.values()],
        [body(guest, path).count(b"\n") for path in TEXTS],
        [shape(json.loads(body(guest, path))) for path in JSONS],
    )


SHOWN = all_of(SPEC)


@given(st.sampled_from(PLACES), hostile, st.sampled_from(["whole", "before", "after"]))
def test_what_the_parser_lets_through_changes_nothing_but_values(
    path: tuple[str | int, ...], text: str, how: str
) -> None:
    changes = {"whole": lambda _: text, "before": lambda old: f"{text}{old}", "after": lambda old: f"{old}{text}"}
    try:
        found = all_of(with_text(path, changes[how]))
    except SpecError:
        return
    assert found == SHOWN


def test_a_tame_change_is_let_through() -> None:
    for path in (("keys", 0), ("user_data",), ("volumes", 0, "image")):
        assert all_of(with_text(path, lambda old: f"{old}x")) == SHOWN
    assert isinstance(dhcp("a", "domain").hosts[0], DhcpHost)
    assert isinstance(dhcp("a", "domain").subnets[0], DhcpSubnet)

"""From documents to specs: what is accepted, in which shape, and what is refused, where and why."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_network

import pytest
from hypothesis import given
from spec_examples import KEY, SEED, documents, json_values, nic, other_subnet, rule, vm, volume

from lvagent.errors import SpecError
from lvagent.spec import names
from lvagent.spec.json import load
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import Datasource, Direction, NetRule, Network, VmConfig, Volume

SEED_VM = VmConfig(
    id="i-0000000001",
    memory_mb=128,
    cpus=1,
    volumes=(Volume("/v/one.qcow2", 0, image="tiny"),),
    networks=(
        Network(
            vxlanid=100,
            netname="vpc-aaaaaaaaaa",
            subnetname="subnet-aaaaaaaaaa",
            position=0,
            mac="06:8c:09:e8:34:62",
            ipv4=IPv4Interface("10.0.0.5/24"),
            gateway_v4=IPv4Address("10.0.0.1"),
            ipv6=IPv6Interface("fd00:a::5/64"),
            gateway_v6=IPv6Address("fd00:a::1"),
        ),
    ),
    rules=(NetRule("tcp", 22),),
    keys=(KEY,),
)


def refused(document: object) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_vm(document)
    assert caught.value.hint
    return caught.value.path, caught.value.message


def nic_of(**fields: object) -> Network:
    return parse_vm(vm(networks=[nic(**fields)])).networks[0]


def test_the_seed_spelling():
    assert parse_vm(load(json.dumps(SEED).encode(), max_bytes=4096)) == SEED_VM


def test_every_spelling_of_keys_is_one_spec():
    def respelled(value, change):
        if isinstance(value, list):
            return [respelled(item, change) for item in value]
        if isinstance(value, dict):
            return {change(key): respelled(item, change) for key, item in value.items()}
        return value

    for change in (str.upper, str.lower, lambda key: "_".join(key), lambda key: f"_{key}_".swapcase()):
        assert parse_vm(respelled(SEED, change)) == SEED_VM


def test_null_is_the_same_as_absent():
    optional = {"volumes": None, "rules": None, "keys": None, "user_data": None}
    optional |= {"datasource": None, "restart": None}
    nulls = {"ipv6": None, "gateway_v6": None, "mac": None, "extra_addresses": None, "extra_macs": None, "mtu": None}
    assert parse_vm(vm(networks=[nic(**nulls)], **optional)) == parse_vm(vm())


def test_an_empty_text_is_no_address():
    assert nic_of(ipv6="", gateway_v6="", mac="") == nic_of()


def test_volumes_and_networks_are_sorted_by_position():
    document = vm(
        volumes=[volume(path="/v/b.qcow2", position=7), volume()],
        networks=[other_subnet(position=3), nic()],
    )
    parsed = parse_vm(document)
    assert [item.position for item in parsed.volumes] == [0, 7]
    assert [item.position for item in parsed.networks] == [0, 3]


def test_a_complete_spec():
    full = vm(
        networks=[
            nic(
                mac="0A-BB-CC-00-11-22",
                extra_addresses=["192.0.2.9", "192.0.2.0/28", "2001:DB8::/48", "10.0.0.100"],
                extra_macs=["00:00:5E:00:01:02", "00-00-5e-00-01-01", "0a:bb:cc:00:11:22"],
                mtu=9000,
            )
        ],
        volumes=[volume(size_gb=10, image="debian-12.1_a", readonly=True)],
        rules=[rule(proto=17, port=53, port_end=54, source="I-0".lower() + "000000002", direction="egress")],
        user_data="#cloud-config\n",
        datasource="ec2",
    )
    parsed = parse_vm(full)
    assert parsed.networks[0] == Network(
        100, "vpc-aaaaaaaaaa", "subnet-aaaaaaaaaa", 0, "0a:bb:cc:00:11:22",
        IPv4Interface("10.0.0.5/24"), IPv4Address("10.0.0.1"),
        extra_addresses=(ip_network("10.0.0.100/32"), ip_network("192.0.2.0/28"), ip_network("2001:db8::/48")),
        extra_macs=("00:00:5e:00:01:01", "00:00:5e:00:01:02"), mtu=9000,
    )  # fmt: skip
    assert parsed.volumes == (Volume("/v/one.qcow2", 0, 10, "debian-12.1_a", True),)
    assert parsed.rules == (NetRule("udp", 53, 54, "i-0000000002", "", Direction.EGRESS),)
    assert (parsed.user_data, parsed.datasource) == (b"#cloud-config\n", Datasource.EC2)


@pytest.mark.parametrize(
    ("own", "router"),
    [("10.0.0.5/24", "10.0.0.1"), ("10.0.0.5", "10.0.0.1/24"), ("10.0.0.5/24", "10.0.0.1/24")],
)
def test_one_of_address_and_gateway_carries_the_prefix(own, router):
    assert nic_of(ipv4=own, gateway_v4=router) == nic_of()


def test_ipv6_alone_in_any_spelling():
    found = nic_of(ipv4=None, gateway_v4=None, ipv6="FD00:000A:0::5/64", gateway_v6="fd00:a:0:0::1")
    assert (found.ipv4, found.gateway_v4) == (None, None)
    assert (found.ipv6, found.gateway_v6) == (IPv6Interface("fd00:a::5/64"), IPv6Address("fd00:a::1"))


def test_the_smallest_subnets():
    assert nic_of(ipv4="10.0.0.2/30").ipv4 == IPv4Interface("10.0.0.2/30")
    found = nic_of(ipv6="fd00::2/126", gateway_v6="fd00::1")
    assert found.ipv6 == IPv6Interface("fd00::2/126")
    assert nic_of(ipv6="fd00::3/126", gateway_v6="fd00::1").ipv6 == IPv6Interface("fd00::3/126")


def test_two_nics_in_one_subnet():
    parsed = parse_vm(vm(networks=[nic(), nic(position=1, ipv4="10.0.0.6/24")]))
    assert [entry.mac for entry in parsed.networks] == [
        names.nic_mac("i-0000000001", 0),
        names.nic_mac("i-0000000001", 1),
    ]


def test_one_address_in_two_vpcs():
    far = other_subnet(netname="vpc-bbbbbbbbbb", position=1, ipv4="10.0.0.5/24", gateway_v4="10.0.0.1")
    assert len(parse_vm(vm(networks=[nic(), far])).networks) == 2


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        (None, "", "must be an object, not null"),
        ([], "", "must be an object, not a list"),
        ("x" * 100, "", 'must be an object, not the string "' + "x" * 60 + '..."'),
        (vm(cores=2), "cores", 'there is no field "cores"'),
        (vm(networks=[nic(ipv5="x")]), "networks[0].ipv5", 'there is no field "ipv5"'),
        (vm(rules=[rule(Proto="udp")]), "rules[0].proto", '"proto" is there twice'),
        (vm(user_data={"text": "x"}), "user_data.text", 'there is no field "text"'),
        ({"Id": "i-0000000001", "ID": 1}, "id", '"id" is there twice'),
        (vm(memory_mb="128"), "memory_mb", 'must be a whole number, not the string "128"'),
        (vm(memory_mb=True), "memory_mb", "must be a whole number, not true"),
        (vm(memory_mb=128.0), "memory_mb", "must be a whole number, not the number 128.0"),
        (vm(memory_mb=None), "memory_mb", "must be a whole number, not null"),
        (vm(memory_mb=15), "memory_mb", "15 is too small"),
        (vm(memory_mb=4_194_305), "memory_mb", "4194305 is too large"),
        (vm(cpus=0), "cpus", "0 is too small"),
        (vm(cpus=256), "cpus", "256 is too large"),
        (vm(cpus=10**19), "cpus", "10000000000000000000 is too large"),
        (vm(id="i-1"), "id", '"i-1" does not have the right form'),
        (vm(id="i-0000000001\n"), "id", '"i-0000000001\\n" does not have the right form'),
        (vm(id="i-000000000\u0661"), "id", '"i-000000000\\u0661" does not have the right form'),
        (vm(id=1), "id", "must be a string, not the number 1"),
        ({"id": "i-0000000001", "cpus": 1, "networks": [nic()]}, "memory_mb", "is missing"),
        (vm(datasource="azure"), "datasource", '"azure" is not known here'),
        (vm(restart="Always"), "restart", '"Always" is not known here'),
        (vm(restart=True), "restart", "True is not known here"),
        (vm(user_data=5), "user_data", "must be a string or an object, not the number 5"),
        (vm(user_data={"base64": 5}), "user_data.base64", "must be a string, not the number 5"),
        (vm(user_data={"base64": "?"}), "user_data.base64", "this is not base64"),
        (vm(user_data={"base64": "YQ==\n"}), "user_data.base64", "this is not base64"),
        (vm(user_data={}), "user_data.base64", "is missing"),
        (vm(user_data="x" * 64_513), "user_data", "there are 64513 bytes"),
        (vm(keys="ssh"), "keys", "must be a list, not a string"),
        (vm(keys=[5]), "keys[0]", "must be a string, not the number 5"),
        (vm(keys=[KEY] * 65), "keys", "there are too many: 65"),
        (vm(rules=[rule()] * 1001), "rules", "there are too many: 1001"),
    ],
)
def test_a_vm_is_refused(document, path, message):
    assert refused(document) == (path, message)


@pytest.mark.parametrize(
    ("networks", "path", "message"),
    [
        ([], "networks", "is empty"),
        ([nic(position=n) for n in range(17)], "networks", "there are too many: 17"),
        ([5], "networks[0]", "must be an object, not the number 5"),
        ([nic(position=100)], "networks[0].position", "100 is too large"),
        ([nic(position=1)], "networks", "none has position 0"),
        ([nic(), other_subnet()], "networks[1].position", "networks[0] has position 0 too"),
        ([nic(vxlanid=2_000_001)], "networks[0].vxlanid", "2000001 is too large"),
        ([nic(vxlanid=-1)], "networks[0].vxlanid", "-1 is too small"),
        ([nic(netname="vpc-A000000000")], "networks[0].netname", '"vpc-A000000000" does not have the right form'),
        ([nic(subnetname="subnet-x")], "networks[0].subnetname", '"subnet-x" does not have the right form'),
        # same name, other facts; and other names for what is there
        ([nic(), other_subnet(position=1, subnetname="subnet-aaaaaaaaaa", netname="vpc-bbbbbbbbbb")],
         "networks[1].netname", "subnet-aaaaaaaaaa is in vpc-aaaaaaaaaa, not in vpc-bbbbbbbbbb: see networks[0]"),
        ([nic(), nic(position=1, ipv4="10.0.0.6/24", vxlanid=101)],
         "networks[1].vxlanid", "subnet-aaaaaaaaaa has VNI 100, not 101: see networks[0]"),
        ([nic(), nic(position=1, ipv4="10.0.0.6/24", gateway_v4="10.0.0.2")],
         "networks[1].gateway_v4", "subnet-aaaaaaaaaa has the gateway 10.0.0.1/24, not 10.0.0.2/24: see networks[0]"),
        ([nic(), nic(position=1, ipv4="10.0.0.6/25")],
         "networks[1].gateway_v4", "subnet-aaaaaaaaaa has the gateway 10.0.0.1/24, not 10.0.0.1/25: see networks[0]"),
        ([nic(), nic(position=1, ipv4="10.0.0.6/24", mtu=1400)],
         "networks[1].mtu", "the MTU of subnet-aaaaaaaaaa is unset, not 1400: see networks[0]"),
        ([nic(), other_subnet(position=1, vxlanid=100)],
         "networks[1].vxlanid", "VNI 100 is that of subnet-aaaaaaaaaa, not of subnet-bbbbbbbbbb: see networks[0]"),
        ([nic(), nic(position=1)], "networks[1].ipv4", "the address 10.0.0.5 is taken: see networks[0]"),
        ([nic(), other_subnet(position=1, ipv4="10.0.0.130/25", gateway_v4="10.0.0.129")], "networks[1].ipv4",
         "10.0.0.128/25 of subnet-bbbbbbbbbb overlaps 10.0.0.0/24 of subnet-aaaaaaaaaa: see networks[0]"),
        ([nic(mac="0a:00:00:00:00:01"), other_subnet(position=1, mac="0A-00-00-00-00-01")],
         "networks[1].mac", "the MAC 0a:00:00:00:00:01 is taken: see networks[0]"),
        ([nic(), other_subnet(position=1, extra_addresses=["10.0.0.5"])],
         "networks[1].extra_addresses[0]",
         "the extra address 10.0.0.5/32 overlaps 10.0.0.0/24 of subnet-aaaaaaaaaa: see networks[0]"),
    ],
)  # fmt: skip
def test_networks_are_refused(networks, path, message):
    assert refused(vm(networks=networks)) == (path, message)


def test_paths_count_as_the_caller_wrote():
    document = vm(networks=[other_subnet(position=5, ipv4="10.0.1.1/24"), nic()])
    assert refused(document) == ("networks[0].ipv4", "10.0.1.1 is the gateway's address")


@pytest.mark.parametrize(
    ("fields", "name", "message"),
    [
        ({"ipv4": None, "gateway_v4": None}, "ipv4", "the NIC has no address"),
        ({"gateway_v4": None}, "gateway_v4", "is missing: ipv4 has no gateway"),
        ({"ipv4": None}, "gateway_v4", "a gateway without an address"),
        ({"gateway_v6": "fd00::1"}, "gateway_v6", "a gateway without an address"),
        ({"ipv4": "10.0.0.5"}, "ipv4", "neither the address nor its gateway has a prefix length"),
        ({"gateway_v4": "10.0.0.1/25"}, "gateway_v4", "the prefix is /25 here and /24 in ipv4"),
        ({"ipv4": "10.0.1.5/24"}, "ipv4", "10.0.1.5 is not in 10.0.0.0/24, the subnet of its gateway"),
        ({"ipv4": "10.0.0.1/24"}, "ipv4", "10.0.0.1 is the gateway's address"),
        ({"ipv4": "10.0.0.0/24"}, "ipv4", "10.0.0.0 is the network's address of 10.0.0.0/24"),
        ({"ipv4": "10.0.0.255/24"}, "ipv4", "10.0.0.255 is the broadcast address of 10.0.0.0/24"),
        ({"gateway_v4": "10.0.0.0"}, "gateway_v4", "10.0.0.0 is the network's address of 10.0.0.0/24"),
        ({"gateway_v4": "10.0.0.255"}, "gateway_v4", "10.0.0.255 is the broadcast address of 10.0.0.0/24"),
        ({"ipv4": "10.0.0.5/31"}, "ipv4", "a subnet cannot be a /31"),
        ({"ipv4": "10.0.0.5/7"}, "ipv4", "a subnet cannot be a /7"),
        ({"ipv4": "10.0.0.5/024"}, "ipv4", '"10.0.0.5/024" has no prefix length after the /'),
        ({"ipv4": "10.0.0.5/255.255.255.0"}, "ipv4", '"10.0.0.5/255.255.255.0" has no prefix length after the /'),
        ({"ipv4": "10.0.0.5/24\n"}, "ipv4", '"10.0.0.5/24\\n" has no prefix length after the /'),
        ({"ipv4": "10.0.0.05/24"}, "ipv4", '"10.0.0.05" is no IP address'),
        ({"ipv4": " 10.0.0.5/24"}, "ipv4", '" 10.0.0.5" is no IP address'),
        ({"ipv4": "167772165/24"}, "ipv4", '"167772165" is no IP address'),
        ({"ipv4": "fd00::5/64"}, "ipv4", "fd00::5 is an IPv6 address"),
        ({"ipv6": "10.0.0.5/24", "gateway_v6": "fd00::1"}, "ipv6", "10.0.0.5 is an IPv4 address"),
        ({"ipv4": "169.254.1.1/16"}, "ipv4", "169.254.1.1 is link-local; metadata lives there"),
        ({"ipv4": "169.1.0.1/8", "gateway_v4": "169.1.0.2"}, "gateway_v4",
         "169.0.0.0/8 covers 169.254.169.254, where metadata lives"),
        ({"ipv4": "127.0.0.5/8"}, "ipv4", "127.0.0.5 is a loopback address"),
        ({"ipv4": "224.0.0.5/24"}, "ipv4", "224.0.0.5 is a multicast address"),
        ({"ipv4": "255.255.255.255/24"}, "ipv4", "255.255.255.255 is reserved (RFC 1112)"),
        ({"ipv4": "0.0.0.0/8"}, "ipv4", '0.0.0.0 is "this network" (RFC 1122)'),
        ({"ipv6": "fd00::/64", "gateway_v6": "fd00::1"}, "ipv6",
         "fd00:: is the subnet-router anycast address (RFC 4291) of fd00::/64"),
        ({"ipv6": "fd00::5/63", "gateway_v6": "fd00::1"}, "ipv6", "a subnet cannot be a /63"),
        ({"ipv6": "fd00::5/127", "gateway_v6": "fd00::4"}, "ipv6", "a subnet cannot be a /127"),
        ({"ipv6": "fe80::5/64", "gateway_v6": "fe80::1"}, "ipv6", "fe80::5 is link-local"),
        ({"ipv6": "ff02::1/64", "gateway_v6": "fe80::1"}, "ipv6", "ff02::1 is a multicast address"),
        ({"ipv6": "::1/64", "gateway_v6": "::2"}, "ipv6", "::1 is the loopback address"),
        ({"ipv6": "::/64", "gateway_v6": "::2"}, "ipv6", ":: is the unspecified address"),
        ({"ipv6": "::ffff:10.0.0.1/64", "gateway_v6": "fd00::1"}, "ipv6",
         "::ffff:a00:1 is an IPv4 address in IPv6 spelling"),
        ({"ipv6": "fd00::5%eth0/64", "gateway_v6": "fd00::1"}, "ipv6", '"fd00::5%eth0" has a zone'),
        ({"ipv6": "fd00:ec2::254/64", "gateway_v6": "fd00:ec2::1"}, "gateway_v6",
         "fd00:ec2::/64 covers fd00:ec2::254, where metadata lives"),
        ({"mac": "0a:00:00:00:00"}, "mac", '"0a:00:00:00:00" is no MAC address'),
        ({"mac": "0a:00-00:00:00:01"}, "mac", '"0a:00-00:00:00:01" is no MAC address'),
        ({"mac": "0a:00:00:00:00:01\n"}, "mac", "the string is too long"),
        ({"mac": "01:00:5e:00:00:01"}, "mac", "01:00:5e:00:00:01 is a group address (its first octet is odd)"),
        ({"mac": "00:00:00:00:00:00"}, "mac", "00:00:00:00:00:00 cannot be a guest's address"),
        ({"mac": "FE:00:00:00:00:01"}, "mac", "fe:00:00:00:00:01 cannot be a guest's address"),
        ({"extra_macs": ["0a:00:00:00:00:01", "x"]}, "extra_macs[1]", '"x" is no MAC address'),
        ({"extra_macs": [f"0a:00:00:00:00:{n:02}" for n in range(17)]}, "extra_macs", "there are too many: 17"),
        ({"extra_addresses": ["10.0.0.0/24"]}, "extra_addresses[0]", "10.0.0.0/24 covers the gateway 10.0.0.1"),
        ({"extra_addresses": ["192.0.2.1", "0.0.0.0/0"]}, "extra_addresses[1]", "0.0.0.0/0 is every address"),
        ({"extra_addresses": ["::/0"]}, "extra_addresses[0]", "::/0 is every address"),
        ({"extra_addresses": ["192.0.2.1/24"]}, "extra_addresses[0]", '"192.0.2.1/24" has bits set after its prefix'),
        ({"extra_addresses": ["i-0000000001"]}, "extra_addresses[0]", '"i-0000000001" is no IP address'),
        ({"extra_addresses": ["192.0.2.0/33"]}, "extra_addresses[0]",
         '"192.0.2.0/33" has no prefix length after the /'),
        ({"extra_addresses": ["168.0.0.0/6"]}, "extra_addresses[0]",
         "168.0.0.0/6 is not of unicast addresses alone: 169.254.0.0/16 is link-local; metadata lives there"),
        ({"extra_addresses": ["fd00::/8"]}, "extra_addresses[0]",
         "fd00::/8 covers fd00:ec2::254, where metadata lives"),
        ({"mtu": 575}, "mtu", "575 is too small"),
        ({"mtu": 9217}, "mtu", "9217 is too large"),
        ({"mtu": 1279, "ipv6": "fd00::5/64", "gateway_v6": "fd00::1"}, "mtu", "1279 is too small for IPv6"),
    ],
)  # fmt: skip
def test_a_nic_is_refused(fields, name, message):
    assert refused(vm(networks=[nic(**fields)])) == (f"networks[0].{name}", message)


def test_the_gateways_mac_is_refused():
    mac = names.gateway_mac("subnet-aaaaaaaaaa")
    message = f"{mac} is the MAC of the gateway of subnet-aaaaaaaaaa"
    assert refused(vm(networks=[nic(mac=mac)])) == ("networks[0].mac", message)
    assert refused(vm(networks=[nic(extra_macs=[mac])])) == ("networks[0].extra_macs[0]", message)


@pytest.mark.parametrize(
    ("volumes", "path", "message"),
    [
        ([volume(position=1)], "volumes", "none has position 0"),
        ([volume(), volume(path="/v/b.qcow2")], "volumes[1].position", "volumes[0] has position 0 too"),
        ([volume(), volume(position=1)], "volumes[1].path", "the volume /v/one.qcow2 is in use: see volumes[0]"),
        (
            [volume(), volume(position=1, readonly=True)],
            "volumes[1].path",
            "the volume /v/one.qcow2 is in use: see volumes[0]",
        ),
        ([volume(position=n) for n in range(25)], "volumes", "there are too many: 25"),
        ([volume(path="v/a.qcow2")], "volumes[0].path", '"v/a.qcow2" is not absolute'),
        ([volume(path="")], "volumes[0].path", '"" is not absolute'),
        ([volume(path="/v/../a.qcow2")], "volumes[0].path", '"/v/../a.qcow2" is not in its shortest form'),
        ([volume(path="/v/./a.qcow2")], "volumes[0].path", '"/v/./a.qcow2" is not in its shortest form'),
        ([volume(path="//v/a.qcow2")], "volumes[0].path", '"//v/a.qcow2" is not in its shortest form'),
        ([volume(path="/v//a.qcow2")], "volumes[0].path", '"/v//a.qcow2" is not in its shortest form'),
        ([volume(path="/v/a.qcow2/")], "volumes[0].path", '"/v/a.qcow2/" is not in its shortest form'),
        ([volume(path="/v/a\n.qcow2")], "volumes[0].path", '"/v/a\\n.qcow2" has a control character'),
        ([volume(path="/v/a\0.qcow2")], "volumes[0].path", '"/v/a\\u0000.qcow2" has a control character'),
        ([volume(path="/v/a\u2028.qcow2")], "volumes[0].path", '"/v/a\\u2028.qcow2" has a control character'),
        ([volume(path="/v/a.raw")], "volumes[0].path", '"/v/a.raw" is not named *.qcow2'),
        ([volume(path="/v/.qcow2")], "volumes[0].path", '"/v/.qcow2" is not named *.qcow2'),
        ([volume(path=f"/v/{'a' * 250}.qcow2")], "volumes[0].path", "a part of the path is too long"),
        ([volume(path=f"/v{'/a' * 600}.qcow2")], "volumes[0].path", "the path has 1208 characters"),
        ([volume(image="../etc")], "volumes[0].image", '"../etc" does not have the right form'),
        ([volume(image="a" * 65)], "volumes[0].image", '"' + "a" * 60 + '..." does not have the right form'),
        ([volume(size_gb=0)], "volumes[0].size_gb", "0 is too small"),
        ([volume(size_gb=65_537)], "volumes[0].size_gb", "65537 is too large"),
        ([volume(readonly="yes")], "volumes[0].readonly", 'must be true or false, not the string "yes"'),
        ([volume(readonly=1)], "volumes[0].readonly", "must be true or false, not the number 1"),
        ([volume(readonly=True, size_gb=1)], "volumes[0].readonly", "an empty disk that cannot be written"),
    ],
)
def test_volumes_are_refused(volumes, path, message):
    assert refused(vm(volumes=volumes)) == (path, message)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"proto": "TCP", "port": 0}, NetRule("tcp")),
        ({"proto": "any"}, NetRule("any")),
        ({"proto": 6, "port": 80}, NetRule("tcp", 80)),
        ({"proto": "58"}, NetRule("icmpv6")),
        ({"proto": 0}, NetRule("0")),
        ({"proto": 255}, NetRule("255")),
        ({"proto": "sctp", "port": 5, "port_end": 5}, NetRule("sctp", 5)),
        ({"source": None, "destination": ""}, NetRule("tcp")),
        ({"source": "FD00:0::/64"}, NetRule("tcp", source="fd00::/64")),
        ({"source": "fd00:0::5", "destination": "fd00::/8"}, NetRule("tcp", source="fd00::5", destination="fd00::/8")),
        ({"source": "10.0.0.5/32"}, NetRule("tcp", source="10.0.0.5/32")),
        ({"destination": "subnet-0123456789"}, NetRule("tcp", destination="subnet-0123456789")),
        ({"source": "0.0.0.0/0", "destination": "i-0000000009"}, NetRule("tcp", 0, None, "0.0.0.0/0", "i-0000000009")),
        ({"direction": "ingress"}, NetRule("tcp", direction=Direction.INGRESS)),
    ],
)
def test_a_rule_is_accepted(given, text):
    assert parse_vm(vm(rules=[rule(**given)])).rules == (text,)


@pytest.mark.parametrize(
    ("fields", "name", "message"),
    [
        ({"proto": "gre"}, "proto", '"gre" is no protocol'),
        ({"proto": "256"}, "proto", '"256" is no protocol'),
        ({"proto": "06"}, "proto", '"06" is no protocol'),
        ({"proto": ""}, "proto", '"" is no protocol'),
        ({"proto": 256}, "proto", "256 is too large"),
        ({"proto": -1}, "proto", "-1 is too small"),
        ({"proto": True}, "proto", "must be a whole number or a string, not true"),
        ({"port": 65_536}, "port", "65536 is too large"),
        ({"port": "22"}, "port", 'must be a whole number, not the string "22"'),
        ({"port": 80, "port_end": 22}, "port_end", "22 is below port 80"),
        ({"port_end": 22}, "port", "a range without its first port"),
        ({"proto": "icmp", "port": 8}, "port", "icmp has no ports"),
        ({"proto": "any", "port_end": 8}, "port_end", "any has no ports"),
        ({"source": "10.0.0.5/24"}, "source", '"10.0.0.5/24" has bits set after its prefix'),
        ({"source": "10.0.0.0/33"}, "source", '"10.0.0.0/33" has no prefix length after the /'),
        ({"source": "10.0.0.0/8 }; drop"}, "source", '"10.0.0.0/8 }; drop" is neither a net nor an id'),
        ({"destination": "i-1"}, "destination", '"i-1" is no id'),
        ({"destination": "vpc-aaaaaaaaaa"}, "destination", '"vpc-aaaaaaaaaa" is neither a net nor an id'),
        ({"source": "i-0000000001\n"}, "source", '"i-0000000001\\n" is no id'),
        ({"source": "fe80::1%eth0"}, "source", '"fe80::1%eth0" has a zone'),
        ({"source": "::ffff:10.0.0.1"}, "source", "::ffff:a00:1 is an IPv4 address in IPv6 spelling"),
        ({"source": "10.0.0.0/8", "destination": "fd00::/8"}, "destination", "source is IPv4, destination is not"),
        ({"proto": "icmp", "source": "fd00::/8"}, "source", "fd00::/8 is IPv6, and icmp is of IPv4"),
        ({"proto": 58, "destination": "10.0.0.1"}, "destination", "10.0.0.1/32 is IPv4, and icmpv6 is of IPv6"),
        ({"direction": "in"}, "direction", '"in" is not known here'),
    ],
)
def test_a_rule_is_refused(fields, name, message):
    assert refused(vm(rules=[rule(), rule(**fields)])) == (f"rules[1].{name}", message)


def test_user_data_in_base64_and_its_limit():
    assert parse_vm(vm(user_data={"Base64": "AP8="})).user_data == b"\x00\xff"
    assert parse_vm(vm(user_data="")).user_data is None
    assert parse_vm(vm(user_data={"base64": ""})).user_data is None
    assert parse_vm(vm(user_data="äb"), user_data_max=3).user_data == "äb".encode()
    with pytest.raises(SpecError, match="there are 3 bytes"):
        parse_vm(vm(user_data="äb"), user_data_max=2)


def test_secrets_are_not_in_errors_or_reprs():
    secret = "hunter2-" * 20_000
    for value in (secret, [secret], {"base64": secret}, {"base64": [secret]}):
        with pytest.raises(SpecError) as caught:
            parse_vm(vm(user_data=value))
        assert "hunter2" not in str(caught.value) + caught.value.hint
    assert "hunter2" not in repr(parse_vm(vm(user_data="hunter2")))


def test_a_hint_names_the_field_that_was_meant():
    with pytest.raises(SpecError) as caught:
        parse_vm(vm(memory=128))
    assert caught.value.hint == "did you mean memory_mb?"


@given(json_values())
def test_any_json_gives_a_spec_or_a_spec_error(value):
    try:
        assert isinstance(parse_vm(value), VmConfig)
    except SpecError as error:
        assert (error.message != "", error.hint != "") == (True, True)  # noqa: PT017


@given(documents(), json_values())
def test_a_valid_document_with_something_in_it_replaced(document, value):
    for key in list(document):
        broken = document | {key: value}
        try:
            assert isinstance(parse_vm(broken), VmConfig)
        except SpecError as error:
            assert error.path.split("[")[0].split(".")[0] in {"", key}  # noqa: PT017
    for index, entry in enumerate(document["networks"]):
        for key in entry:
            networks = [*document["networks"]]
            networks[index] = entry | {key: value}
            try:
                assert isinstance(parse_vm(document | {"networks": networks}), VmConfig)
            except SpecError as error:
                assert error.path.startswith("networks")  # noqa: PT017


@given(documents())
def test_parsing_is_a_function_of_meaning(document):
    parsed = parse_vm(document)
    reversed_document = {key: document[key] for key in reversed(document)}
    reversed_document["networks"] = document["networks"][::-1]
    assert parse_vm(json.loads(json.dumps(document))) == parsed == parse_vm(reversed_document)

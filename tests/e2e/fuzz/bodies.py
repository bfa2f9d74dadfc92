"""Specs of VMs that can be, and some that nearly can."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.e2e.fuzz.routes import Json
from tests.e2e.fuzz.sent import garbage, mostly, replaced
from tests.e2e.fuzz.served import CANARY, IDS, NETS
from tests.e2e.specs import nic

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f x"
VOLUMES = "/var/lib/lvagent/volumes"
RULES: tuple[Json, ...] = (
    {"proto": "tcp", "port": 22},
    {"proto": "any", "source": "subnet-bbbbbbbbbb"},
    {"proto": "udp", "port": 53, "destination": "10.0.1.0/24", "direction": "egress"},
    {"proto": 89, "source": IDS[0]},
)


@st.composite
def _nics(draw: st.DrawFn, number: int) -> list[Json]:
    used = draw(st.sampled_from([NETS[:1], NETS[1:], NETS]))
    places = [st.sampled_from([4 + number, 4 + number, 4 + number, 9]) for _ in used]
    return [
        nic(vpc, subnet, net=net, vni=vni, host=draw(places[position]), position=position)
        for position, (vpc, subnet, net, vni) in enumerate(used)
    ]


def _volumes(number: int) -> st.SearchStrategy[list[Json]]:
    """A disk of its own, seldom one that all want; made empty, so it costs a few hundred kilobytes."""
    own = {"path": f"{VOLUMES}/fuzz-{number}.qcow2", "position": 0, "size_gb": 1}
    shared = {"path": f"{VOLUMES}/fuzz.qcow2", "position": 1, "size_gb": 1}
    return st.sampled_from([[own], [own, shared], [{**own, "size_gb": 2}], [{**own, "image": "nope"}]])


@st.composite
def sound_specs(draw: st.DrawFn) -> Json:
    """A spec that can be; it may be in conflict with another VM."""
    number = draw(st.integers(0, len(IDS) - 1))
    data = st.sampled_from([f"#!/bin/sh\n# {CANARY}\n", {"base64": "AP8="}, CANARY * 1000])
    more: Json = draw(
        st.fixed_dictionaries(
            {"memory_mb": st.sampled_from([16, 32, 32, 64])},
            optional={
                "rules": st.lists(st.sampled_from(RULES), max_size=3),
                "keys": st.just([KEY]),
                "user_data": data,
                "datasource": st.sampled_from(["nocloud", "openstack", "ec2"]),
                "restart": st.sampled_from(["never", "on-failure", "always"]),
                "volumes": _volumes(number),
            },
        )
    )
    memory = draw(st.sampled_from(["memory_mb", "MemoryMB"]))
    more[memory] = more.pop("memory_mb")
    return {"id": IDS[number], "cpus": draw(st.sampled_from([1, 1, 2])), "networks": draw(_nics(number)), **more}


@st.composite
def broken_specs(draw: st.DrawFn) -> object:
    """A sound spec with one thing wrong, or two."""
    spec: object = draw(sound_specs())
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        spec = replaced(draw, spec)
    return spec


FLOATING = ("192.0.2.50", "192.0.2.51")
"""Addresses of the host's network that nobody has."""

VPC_WISHES: tuple[Json, ...] = (
    {"uplink": "nat"},
    {"uplink": "nat"},
    {"uplink": "nat", "mtu": 1400},
    {"uplink": "none"},
    {"uplink": "routed"},
    {"domain": "shop.internal", "forwarders": []},
    {"metadata": "off"},
    {},
)
PORTS: tuple[Json, ...] = (
    {"host_port": 8080, "port": 80},
    {"host_port": 8080, "port": 81, "proto": "udp"},
    {"host_port": 9000, "host_port_end": 9009},
    {"host_port": 8443, "port": 443, "host_address": "192.0.2.10", "sources": ["198.51.100.0/24"]},
)


def sound_bodies(operation: str) -> st.SearchStrategy[object]:
    """Bodies that can be, for a route that takes one: what they ask for may contradict what others did."""
    match operation:
        case "putVpc":
            return st.sampled_from(VPC_WISHES)
        case "putPorts":
            return st.lists(st.sampled_from(PORTS), max_size=3)
        case "putFloating":
            return st.sampled_from([{"vm": one} for one in IDS])
        case "askQmp":
            return st.just({"execute": "query-status"})
        case "askHmp":
            return st.just({"command": "info status"})
        case "killStray":
            return st.just({"identity": "1"})
        case _:
            return sound_specs()


@st.composite
def flows(draw: st.DrawFn) -> dict[str, str]:
    """The query of an explain about VMs that may be there."""
    ends = st.sampled_from([*IDS, *IDS])
    proto, port = draw(st.sampled_from([("tcp", "80"), ("tcp", "8080"), ("udp", "53"), ("icmp", ""), ("89", "")]))
    found = {
        "from": draw(ends | st.sampled_from(["world", "world:198.51.100.7"])),
        "to": draw(ends | st.sampled_from([*FLOATING, "192.0.2.10", "10.0.1.5", "fd00:a::5", "203.0.113.9"])),
        "proto": proto,
    }
    return {**found, "port": port} if port else found


def spec_bodies(of_schema: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Bodies for a route that takes a spec.

    :param of_schema: values that the document's schema allows, as far as a schema can tell.
    """
    wrong = mostly(broken_specs(), of=3, other=of_schema | garbage())
    return mostly(sound_specs(), of=2, other=wrong)


def no_bodies() -> st.SearchStrategy[object]:
    """Bodies for a route that takes none: mostly none."""
    return mostly(st.none(), of=8, other=garbage() | st.just({}))


def own_id(body: object) -> str:
    """The id of a spec if it is one of ours."""
    found = body.get("id") if isinstance(body, dict) else None
    return found if isinstance(found, str) and found in IDS else ""

"""A VPC's namespace with guests' namespaces on its bridge, and a client that speaks from inside one."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import string
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from lvagent.config import MetadataSettings, Paths, Settings
from lvagent.host import daemons, netns
from lvagent.host.run import run
from lvagent.plan.resources import Guest, GuestNic, Metadata

USER = "nobody"
V4, V6 = "169.254.169.254", "fd00:ec2::254"


def vpc_name() -> str:
    """A name of our scheme that nobody has."""
    return "vpc-" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(10))


def ip(*words: str) -> None:
    """Run ``ip``."""
    run(["ip", *words])


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace for as long as it is needed; a test may delete it earlier."""
    ip("netns", "add", name)
    try:
        yield name
    finally:
        if netns.inode(f"/run/netns/{name}") is not None:
            ip("netns", "del", name)


@contextlib.contextmanager
def vpc() -> Iterator[str]:
    """The namespace of a VPC: metadata addresses on lo, a bridge with the gateways 10.0.0.1 and fd00:a::1."""
    with namespace(vpc_name()) as name:
        furnish(name)
        yield name


def furnish(name: str) -> None:
    """What is in the namespace of a VPC."""
    for words in (
        "link set lo up",
        f"addr add {V4}/32 dev lo",
        f"addr add {V6}/128 dev lo nodad",
        "link add br0 type bridge",
        "addr add 10.0.0.1/24 dev br0",
        "addr add fd00:a::1/64 dev br0 nodad",
        "link set br0 up",
    ):
        ip("-n", name, *words.split())


@dataclass(frozen=True, slots=True)
class Client:
    """A guest's namespace."""

    name: str

    def connect(self, server: str = V4, source: str = "") -> socket.socket:
        """A connection from inside to the metadata service."""
        here = (source, 0) if source else None
        return netns.inside(
            f"/run/netns/{self.name}",
            lambda: socket.create_connection((server, 80), timeout=30, source_address=here),
        )

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        server: str = V4,
        source: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        with self.connect(server, source) as connected:
            return exchange(connected, path, method=method, fields=fields)


def exchange(
    connected: socket.socket, path: str, *, method: str = "GET", fields: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of a request on a connection that is there."""
    client = HTTPConnection(V4)
    client.sock = connected
    client.request(method, path, headers=dict(fields or {}))
    reply = client.getresponse()
    return reply.status, reply.read()


@contextlib.contextmanager
def guest_in(vpc_namespace: str, number: int) -> Iterator[Client]:
    """A guest's namespace on the bridge of a VPC, with 10.0.0.<number> and fd00:a::<number>."""
    with namespace(f"lvt{secrets.token_hex(4)}") as name:
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{number}", "netns", vpc_namespace)
        ip("-n", vpc_namespace, "link", "set", f"p{number}", "master", "br0", "up")
        for words in (
            "link set lo up",
            "link set eth0 up",
            f"addr add 10.0.0.{number}/24 dev eth0",
            f"addr add fd00:a::{number:x}/64 dev eth0 nodad",
            "route add default via 10.0.0.1",
            "route add default via fd00:a::1",
        ):
            ip("-n", name, *words.split())
        yield Client(name)


def guest(number: int, vpc_namespace: str, user_data: bytes | None = None) -> Guest:
    """A guest with the addresses that ``guest_in`` gives."""
    nic = GuestNic(
        0,
        f"06:00:00:00:00:{number:02x}",
        1450,
        "subnet-aaaaaaaaaa",
        vpc_namespace,
        f"10.0.0.{number}/24",
        "10.0.0.1",
        f"fd00:a::{number:x}/64",
        "fd00:a::1",
    )
    name = f"i-{number:010d}"
    return Guest(name, name, (f"ssh-ed25519 AAAA {vpc_namespace}",), (nic,), user_data)


def share(vpc_namespace: str, *guests: Guest) -> Metadata:
    """The share of the service that these guests make."""
    pairs = [
        (address.partition("/")[0], one)
        for one in guests
        for nic in one.nics
        for address in (nic.ipv4, nic.ipv6)
        if address
    ]
    return Metadata(vpc_namespace, tuple(sorted(pairs, key=lambda pair: pair[0])))


def settings_in(folder: Path, *, hops: int = 1) -> Settings:
    """Settings under which all of the service is in a folder."""
    return Settings(
        paths=Paths(run=str(folder / "run"), state=str(folder / "state")),
        metadata=MetadataSettings(user=USER, hops=hops),
    )


def pids(folder: Path) -> list[int]:
    """The services that were started from a folder."""
    program = os.path.basename(os.path.realpath(sys.executable))
    return daemons.running(daemons.Identity(program, f"--name={folder}/run/metadata.sock", nested=True))

"""What a user asks for: a VM, its volumes, its networks, its rules.

These are values: frozen, complete (every default filled in, every address with its prefix), and checked.
``spec.parse`` makes them from JSON; ``spec.dump`` turns them into JSON again, and parsing that gives an equal
value. Nothing here touches the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network


class Direction(StrEnum):
    """Which way a rule allows traffic, seen from the VM."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Datasource(StrEnum):
    """Which cloud the metadata service looks like to the guest's cloud-init."""

    NOCLOUD = "nocloud"
    EC2 = "ec2"
    OPENSTACK = "openstack"


class Restart(StrEnum):
    """When a VM that ended without being told to is started again: never, when it crashed, or however it ended."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk. ``path``: absolute path of a qcow2 file. ``position`` 0 is the boot disk.

    A file that is not there is made: ``size_gb`` (GiB) empty, or from ``image`` (a name in the image folder),
    grown to ``size_gb`` if that is given.
    """

    path: str
    position: int
    size_gb: int | None = None
    image: str | None = None
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """A NIC and the subnet it is in. ``position`` 0 is the first NIC, the one with the default route.

    ``vxlanid`` is the VNI of the subnet's segment (0: local to this host). ``ipv4``/``ipv6`` carry the prefix of the
    subnet; at least one of the two is there. A ``gateway_*`` is there exactly when its address is. ``mac`` is always
    filled in (derived from VM id and position unless the user gave one). ``mtu`` None means: what the segment allows.
    """

    vxlanid: int
    netname: str
    subnetname: str
    position: int
    mac: str
    ipv4: IPv4Interface | None = None
    gateway_v4: IPv4Address | None = None
    ipv6: IPv6Interface | None = None
    gateway_v6: IPv6Address | None = None
    extra_addresses: tuple[IPv4Network | IPv6Network, ...] = ()
    extra_macs: tuple[str, ...] = ()
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class NetRule:
    """An allow rule. ``proto``: tcp, udp, icmp, icmpv6, sctp, any, or a protocol number as text. ``port`` 0 is all.

    ``source``/``destination``: CIDR, address, VM id, subnet name, or empty for any. ``direction`` None means: derived
    (see ``NetRule`` in docs/api.md).
    """

    proto: str
    port: int = 0
    port_end: int | None = None
    source: str = ""
    destination: str = ""
    direction: Direction | None = None


@dataclass(frozen=True, slots=True)
class VmConfig:
    """A VM as its user wants it. ``memory_mb`` in MiB. ``volumes`` and ``networks`` are sorted by position.

    ``user_data`` is a secret: it is never part of ``dump(..., secrets=False)``, of the domain XML, or of a log line.
    """

    id: str
    memory_mb: int
    cpus: int
    networks: tuple[Network, ...]
    volumes: tuple[Volume, ...] = ()
    rules: tuple[NetRule, ...] = ()
    keys: tuple[str, ...] = ()
    user_data: bytes | None = field(default=None, repr=False)
    datasource: Datasource | None = None
    restart: Restart = Restart.ON_FAILURE

    @property
    def vpcs(self) -> tuple[str, ...]:
        """The names of the VPCs it has a NIC in, sorted, each once."""
        return tuple(sorted({n.netname for n in self.networks}))

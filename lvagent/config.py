"""Settings: defaults, one TOML file over them, environment over that.

    [fabric]
    netns = "lvfabric"        or in the environment: LVAGENT_FABRIC_NETNS=lvfabric

A section is a frozen dataclass; an unknown section or key, a wrong type, and a value that cannot be meant are errors
that name it. The settings of a running agent never change.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from lvagent.config_listen import check_listen
from lvagent.config_uplink import UplinkSettings, check_uplink, is_domains, is_nets
from lvagent.errors import SpecError

DEFAULT_FILE = Path("/etc/lvagent/lvagent.toml")


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders. ``run`` is lost at reboot; ``state`` holds bounded logs and tokens; ``netns`` has the namespaces."""

    run: str = "/run/lvagent"
    state: str = "/var/lib/lvagent/state"
    vpcs: str = "/var/lib/lvagent/vpcs"
    images: str = "/var/lib/lvagent/images"
    netns: str = "/run/netns"
    hooks: str = "/etc/libvirt/hooks"
    cache: str = "/var/cache/lvagent"


@dataclass(frozen=True, slots=True)
class Api:
    """The HTTP API: its unix socket, and its TCP address (``listen``, empty: none).

    ``mode`` in octal as text. ``max_body`` in bytes. ``threads``: requests served at once on each of the two, at most.
    ``operations``: changes under way at once, of each of the two, at most. ``wait``: seconds after which a change that
    goes on is answered with 202. ``slow``: seconds within which a request must have arrived. ``tls_*``: PEM files; with
    ``tls_client_ca`` clients must show a certificate. ``hosts``: names that TCP clients may use for this host.
    ``origins``: of web pages that may call. ``address_connections``: open at once from one address. ``audit_mb``,
    ``audit_keep``: size of the audit log in MiB, and how many old ones are kept. ``streams``: event streams at once on
    each of the two, at most; each holds one of its threads, so never more than half of them.
    """

    socket: str = ""
    mode: str = "0660"
    group: str = "lvagent"
    max_body: int = 1 << 20
    threads: int = 128
    operations: int = 32
    wait: int = 30
    slow: int = 10
    listen: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    address_connections: int = 32
    audit_mb: int = 16
    audit_keep: int = 4
    streams: int = 32


@dataclass(frozen=True, slots=True)
class Libvirt:
    """Where libvirt is. ``starts``: how many domains are started at once after the host was rebooted.

    ``monitor``: seconds that a QMP or HMP command may take.
    """

    uri: str = "qemu:///system"
    starts: int = 4
    monitor: int = 10


@dataclass(frozen=True, slots=True)
class FabricSettings:
    """The underlay side. ``netns`` empty: tenants' L2 stands in the root namespace (with a guard).

    ``local``: the VTEP's address (empty: the address of the default route's interface, if there is one).
    ``mtu``: of the underlay, bytes. ``port``: UDP port of VXLAN.
    """

    netns: str = "lvfabric"
    local: str = ""
    mtu: int = 1500
    port: int = 4789


@dataclass(frozen=True, slots=True)
class Vpc:
    """What a VPC gets unless told otherwise. ``uplink``: none, nat, routed. ``domain``: DNS domain inside.

    ``lease``: seconds. ``forwarders``: DNS servers for names outside; empty: the host's. ``metadata``: is it served.
    """

    uplink: str = "none"
    metadata: bool = True
    domain: str = "vpc.internal"
    lease: int = 3600
    forwarders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """What one guest may take of what all share. ``flows``: entries in its VPC's table of flows that it began, and as
    many that were begun with it; ``peer_flows``: those that the guests of one peered VPC began there. All others are
    per second (twice as many at once): ``beginnings``: new flows; ``strangers``: new flows to addresses that no VM here
    has; ``broadcasts``: frames that everybody hears; ``neighbours``: ARP and neighbour discovery; ``leases``: DHCP;
    ``questions``: DNS."""

    flows: int = 16_384
    peer_flows: int = 65_536
    beginnings: int = 2000
    strangers: int = 50
    broadcasts: int = 500
    neighbours: int = 200
    leases: int = 10
    questions: int = 1000


@dataclass(frozen=True, slots=True)
class Guests:
    """How domains are rendered. ``accel``: auto, kvm, tcg. ``cpu``: host-model, host-passthrough, maximum,
    or the name of a model (empty: host-model with KVM, Nehalem without). ``firmware``: bios, uefi."""

    accel: str = "auto"
    cpu: str = ""
    machine: str = "q35"
    firmware: str = "bios"
    datasource: str = "nocloud"
    emulator: str = ""
    fast_capabilities: bool = False
    """Skip libvirt's CPU property queries at start. Taints the domain; for tests only."""


@dataclass(frozen=True, slots=True)
class Volumes:
    """``folders``: where volumes may be. ``copy``: overlay (backed by the image) or full. ``timeout``: seconds.

    ``user``/``group``: who must be able to open a volume: qemu's. ``reader``: the account that qemu-img runs as, which
    owns nothing. ``largest_gb``: GiB of a disk, be it made, found or an image.
    """

    folders: tuple[str, ...] = ("/var/lib/lvagent/volumes",)
    copy: str = "overlay"
    timeout: int = 600
    user: str = "libvirt-qemu"
    group: str = "libvirt-qemu"
    reader: str = "lvagent-images"
    largest_gb: int = 65_536


@dataclass(frozen=True, slots=True)
class MetadataSettings:
    """``user``: the account the metadata process runs as. ``hops``: how far the answer with a session token goes: 1 to
    the guest itself, 2 also to a container behind it."""

    user: str = "lvagent-metadata"
    hops: int = 1
    user_data_max: int = 65_536 - 1024


@dataclass(frozen=True, slots=True)
class Sweep:
    """``interval``: seconds between two sweeps. ``removals``: objects that one sweep may take away; were it more, or
    most of the VPCs, it takes none until ``lvagent sweep --force``."""

    interval: int = 30
    removals: int = 50


@dataclass(frozen=True, slots=True)
class StraySettings:
    """qemu processes that nobody wants. ``policy``: report or stop. ``grace``: sweeps in which one must have been seen
    before it is stopped."""

    policy: str = "report"
    grace: int = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of an agent."""

    paths: Paths = field(default_factory=Paths)
    api: Api = field(default_factory=Api)
    libvirt: Libvirt = field(default_factory=Libvirt)
    fabric: FabricSettings = field(default_factory=FabricSettings)
    vpc: Vpc = field(default_factory=Vpc)
    uplink: UplinkSettings = field(default_factory=UplinkSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    guests: Guests = field(default_factory=Guests)
    volumes: Volumes = field(default_factory=Volumes)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    sweep: Sweep = field(default_factory=Sweep)
    strays: StraySettings = field(default_factory=StraySettings)

    @property
    def api_socket(self) -> str:
        """Path of the API's unix socket."""
        return self.api.socket or f"{self.paths.run}/api.sock"

    @property
    def hook_socket(self) -> str:
        """Path of the unix socket the libvirt hook asks on."""
        return f"{self.paths.run}/hook.sock"


def load(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    :param file: the TOML file; None: ``$LVAGENT_CONFIG`` or /etc/lvagent/lvagent.toml if that exists.
    :raise SpecError: an unknown or wrong setting, named by its path; a file that was named and is not there.
    """
    named = file or (Path(environ["LVAGENT_CONFIG"]) if environ.get("LVAGENT_CONFIG") else None)
    table = _read(named or DEFAULT_FILE, optional=named is None)
    _overlay(table, environ)
    settings = typing.cast(Settings, _build(Settings, table, ""))
    _check(settings)
    return settings


def _read(path: Path, *, optional: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        if optional:
            return {}
        raise SpecError(str(path), "there is no such file", "name another, or leave it out") from error
    except (OSError, ValueError) as error:
        raise SpecError(str(path), f"cannot read the settings: {error}", "a TOML file in UTF-8") from error


def _variables() -> dict[str, tuple[str, str]]:
    """Each variable that is looked at, with its section and key."""
    return {
        f"LVAGENT_{section.name}_{entry.name}".upper(): (section.name, entry.name)
        for section in dataclasses.fields(Settings)
        for entry in dataclasses.fields(_type_of(Settings, section.name))
    }


def _overlay(table: dict[str, Any], environ: Mapping[str, str]) -> None:
    variables = _variables()
    begins = tuple({f"LVAGENT_{section}_".upper() for section, _ in variables.values()})
    for name, text in environ.items():
        if name in variables:
            section, key = variables[name]
            if not isinstance(table.setdefault(section, {}), dict):
                raise SpecError(section, "must be a table", f"[{section}]")
            table[section][key] = _from_text(_type_of(_type_of(Settings, section), key), text, name)
        elif name.startswith(begins):
            raise SpecError(name, "there is no such setting", "LVAGENT_<SECTION>_<KEY>, as in the file")


def _from_text(kind: Any, text: str, name: str) -> object:  # noqa: ANN401 - a type of the annotations above
    if kind is bool:
        if text.lower() not in ("0", "1", "true", "false", "yes", "no"):
            raise SpecError(name, f"{text!r} is not yes or no")
        return text.lower() in ("1", "true", "yes")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise SpecError(name, f"{text!r} is not a whole number") from None
    if typing.get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _type_of(cls: Any, name: str) -> Any:  # noqa: ANN401 - annotations are of any type
    return typing.get_type_hints(cls)[name]


def _build(cls: Any, table: object, at: str) -> object:  # noqa: ANN401 - a dataclass type
    if not isinstance(table, dict):
        raise SpecError(at, "must be a table")
    names = [entry.name for entry in dataclasses.fields(cls)]
    values: dict[str, object] = {}
    for key, value in table.items():
        where = f"{at}.{key}" if at else key
        if key not in names:
            raise SpecError(where, "there is no such setting", f"one of {', '.join(names)}")
        values[key] = _value(_type_of(cls, key), value, where)
    return cls(**values)


def _value(kind: Any, value: object, at: str) -> object:  # noqa: ANN401 - a type of the annotations above
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, at)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise SpecError(at, "must be a list of strings")
        return tuple(value)
    if type(value) is not kind:
        raise SpecError(at, f"must be {kind.__name__}, not {type(value).__name__}")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    return lambda value: "" if value in choices else f"one of {', '.join(choices)}"


def _between(least: int, most: int) -> Callable[[Any], str]:
    return lambda value: "" if least <= value <= most else f"from {least} to {most}"


def _addresses(value: str | tuple[str, ...]) -> str:
    try:
        for text in value if isinstance(value, tuple) else filter(None, [value]):
            ip_address(text)
    except ValueError:
        return "an IPv4 or IPv6 address"
    return ""


def _form(pattern: str, meaning: str) -> Callable[[Any], str]:
    return lambda value: "" if re.fullmatch(pattern, value) else meaning


def _folders(value: tuple[str, ...]) -> str:
    return "" if value and all(folder.startswith("/") for folder in value) else "at least one absolute path"


_CHECKS: dict[str, Callable[[Any], str]] = {
    "api.mode": _form("0?[0-7]{3}", 'three octal digits, such as "0660"'),
    "api.max_body": _between(1024, 1 << 26),
    "api.threads": _between(1, 1000),
    "api.operations": _between(1, 1000),
    "api.wait": _between(0, 3600),
    "api.slow": _between(1, 600),
    "api.address_connections": _between(1, 10_000),
    "api.audit_mb": _between(1, 10_000),
    "api.audit_keep": _between(0, 100),
    "api.streams": _between(1, 500),
    "libvirt.starts": _between(1, 100),
    "libvirt.monitor": _between(1, 600),
    "fabric.netns": _form(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?", "a name without slashes, or empty"),
    "fabric.local": _addresses,
    "fabric.mtu": _between(1350, 65_535),
    "fabric.port": _between(1, 65_535),
    "vpc.uplink": _one_of("none", "nat", "routed"),
    "uplink.ipv6": _one_of("none", "nat66", "routed"),
    "uplink.mtu": _between(1280, 65_535),
    "uplink.deny": is_nets,
    "uplink.routed": is_nets,
    "uplink.private_names": is_domains,
    "uplink.underlay": _one_of("deny", "allow"),
    "uplink.foreign": _one_of("report", "accept"),
    "uplink.others": _one_of("drop", "forward"),
    "vpc.domain": _form(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", "a DNS name in lower case"),
    "vpc.lease": _between(120, 1 << 31),
    "vpc.forwarders": _addresses,
    **{f"filter.{entry.name}": _between(1, 1_000_000) for entry in dataclasses.fields(FilterSettings)},
    "guests.accel": _one_of("auto", "kvm", "tcg"),
    "guests.firmware": _one_of("bios", "uefi"),
    "guests.datasource": _one_of("nocloud", "ec2", "openstack"),
    "volumes.folders": _folders,
    "volumes.copy": _one_of("overlay", "full"),
    "volumes.timeout": _between(1, 86_400),
    "volumes.reader": _form(r"(?!root$).+", "an account that owns nothing, not root"),
    "volumes.largest_gb": _between(1, 65_536),
    "metadata.user_data_max": _between(0, 65_536 - 1024),
    "metadata.hops": _between(1, 64),
    "sweep.interval": _between(1, 86_400),
    "sweep.removals": _between(1, 1_000_000),
    "strays.policy": _one_of("report", "stop"),
    "strays.grace": _between(2, 10_000),
}
"""What a setting of the right type must be besides; each returns nothing, or what would be right."""


def _check(settings: Settings) -> None:
    for name, wrong in _CHECKS.items():
        section, _, key = name.partition(".")
        value = getattr(getattr(settings, section), key)
        if right := wrong(value):
            said = list(value) if isinstance(value, tuple) else value  # as it was written
            raise SpecError(name, f"{said!r} cannot be", right)
    if os.path.normpath(settings.paths.images) in map(os.path.normpath, settings.volumes.folders):
        raise SpecError("volumes.folders", "the image folder is among them", "guests would write to images")
    for entry in dataclasses.fields(Paths):
        if not getattr(settings.paths, entry.name).startswith("/"):
            raise SpecError(f"paths.{entry.name}", "is not an absolute path", "begin with /")
    check_listen(settings.api)
    check_uplink(settings.uplink)

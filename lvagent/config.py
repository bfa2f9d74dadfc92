"""Settings: defaults, one TOML file over them, environment over that.

    [fabric]
    netns = "lvfabric"        or in the environment: LVAGENT_FABRIC_NETNS=lvfabric

A section is a frozen dataclass; an unknown section, key or a wrong type is an error that names it. The settings of a
running agent never change.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvagent.errors import SpecError

DEFAULT_FILE = Path("/etc/lvagent/lvagent.toml")


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders. ``run`` is lost at reboot; ``state`` holds bounded logs only; ``netns`` has the namespaces."""

    run: str = "/run/lvagent"
    state: str = "/var/lib/lvagent/state"
    vpcs: str = "/var/lib/lvagent/vpcs"
    images: str = "/var/lib/lvagent/images"
    netns: str = "/run/netns"
    hooks: str = "/etc/libvirt/hooks"
    cache: str = "/var/cache/lvagent"


@dataclass(frozen=True, slots=True)
class Api:
    """The unix socket of the HTTP API. ``mode`` in octal as text. ``max_body`` in bytes."""

    socket: str = ""
    mode: str = "0660"
    group: str = "lvagent"
    max_body: int = 1 << 20
    threads: int = 40


@dataclass(frozen=True, slots=True)
class Libvirt:
    """Where libvirt is. ``starts``: how many domains may be starting at once on the connection for starts."""

    uri: str = "qemu:///system"
    starts: int = 4


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
    """What a VPC gets unless told otherwise. ``domain``: DNS domain inside. ``lease``: seconds."""

    domain: str = "vpc.internal"
    lease: int = 3600
    forwarders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guests:
    """How domains are rendered. ``accel``: auto, kvm, tcg. ``cpu``: host-model, host-passthrough, maximum,
    or the name of a model (empty: host-model with KVM, ``max`` without). ``firmware``: bios, uefi."""

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

    ``user``/``group``: who must be able to open a volume: qemu's.
    """

    folders: tuple[str, ...] = ("/var/lib/lvagent/volumes",)
    copy: str = "overlay"
    timeout: int = 600
    user: str = "libvirt-qemu"
    group: str = "libvirt-qemu"


@dataclass(frozen=True, slots=True)
class MetadataSettings:
    """``user``: the account the metadata process runs as."""

    user: str = "lvagent-metadata"
    user_data_max: int = 65_536 - 1024


@dataclass(frozen=True, slots=True)
class Sweep:
    """``interval``: seconds between two sweeps."""

    interval: int = 30


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of an agent."""

    paths: Paths = field(default_factory=Paths)
    api: Api = field(default_factory=Api)
    libvirt: Libvirt = field(default_factory=Libvirt)
    fabric: FabricSettings = field(default_factory=FabricSettings)
    vpc: Vpc = field(default_factory=Vpc)
    guests: Guests = field(default_factory=Guests)
    volumes: Volumes = field(default_factory=Volumes)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    sweep: Sweep = field(default_factory=Sweep)

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
    table: dict[str, Any] = {}
    path = named or DEFAULT_FILE
    if named or path.exists():
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SpecError(str(path), f"cannot read the settings: {error}") from error
    _overlay(table, environ)
    return typing.cast(Settings, _build(Settings, table, ""))


def _overlay(table: dict[str, Any], environ: Mapping[str, str]) -> None:
    for section in dataclasses.fields(Settings):
        for entry in dataclasses.fields(_type_of(Settings, section.name)):
            name = f"LVAGENT_{section.name}_{entry.name}".upper()
            if name in environ:
                kind = _type_of(_type_of(Settings, section.name), entry.name)
                table.setdefault(section.name, {})[entry.name] = _from_text(kind, environ[name], name)


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
    expected = kind if not isinstance(kind, types.UnionType) else kind.__args__[0]
    if type(value) is not expected:
        raise SpecError(at, f"must be {expected.__name__}, not {type(value).__name__}")
    return value

"""Gathering the facts of a host, each from the part of ``host`` that knows it."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from lvagent import install
from lvagent.api.tls import server_context
from lvagent.config import Settings
from lvagent.doctor.machine import Folder, Machine
from lvagent.errors import LvagentError
from lvagent.host import certificates, host, kernel_filter, survey, survey_libvirt
from lvagent.host.netspace import Netspace
from lvagent.host.survey_libvirt import LibvirtFacts
from lvagent.host.tokens import TokenStore

DAEMONS = ("libvirtd", "virtqemud", "NetworkManager", "systemd-networkd")
PROGRAMS = ("dnsmasq", "curl", "dash", "nft", "ip", "bridge", "qemu-img")


def machine(settings: Settings) -> Machine:
    """All facts that ``doctor.machine`` judges."""
    accel = host.accelerator(settings.guests.accel)
    libvirt = _libvirt(settings, accel[0])
    emulator = "" if isinstance(libvirt, str) else libvirt.emulator
    path = install.hook_path(settings)
    return Machine(
        settings=settings,
        release=survey.kernel(),
        features=survey.features(settings.filter),
        accel=accel,
        kvm=host.accelerator("auto"),
        bridge_calls=survey.bridge_calls(),
        bridge_conntrack=kernel_filter.bridge_conntrack(),
        hook=survey.file_facts(path),
        hook_path=str(path),
        hook_text=survey.text_of(path),
        hook_wanted=install.hook_text(settings),
        daemons=survey.processes(DAEMONS),
        libvirt=libvirt,
        emulator_version=survey.first_line([emulator, "--version"]) if emulator else "",
        confinement=survey.confinement(),
        open_files=survey.open_files(),
        accounts=_accounts(settings),
        folders=_folders(settings),
        programs=survey.programs(PROGRAMS),
        dnsmasq_version=survey.first_line(["dnsmasq", "--version"]),
        clock_kept=survey.clock_synchronised(),
        now=time.time(),
        underlay=_underlay(settings),
        drop_ins={str(place): survey.text_of(place) == text for place, text in install.service_texts().items()},
        tokens=_tokens(settings),
        tls=_tls(settings),
    )


def _libvirt(settings: Settings, kind: str) -> LibvirtFacts | str:
    try:
        return survey_libvirt.ask(settings.libvirt.uri, kind, settings.guests.machine)
    except LvagentError as error:
        return error.message


def _accounts(settings: Settings) -> dict[str, bool]:
    users = (settings.metadata.user, settings.volumes.reader, settings.volumes.user)
    groups = (settings.volumes.group, *([settings.api.group] if settings.api.group else []))
    return survey.accounts(users, groups)


def _folders(settings: Settings) -> dict[str, Folder]:
    paths = settings.paths
    wanted = {paths.run: (0o755, True), paths.state: (0o700, False), paths.images: (0o755, True)}
    wanted |= dict.fromkeys(settings.volumes.folders, (457, True))
    return {
        path: Folder(survey.file_facts(path), mode, passed, None if path == paths.run else survey.space(path))
        for path, (mode, passed) in wanted.items()
    }


def _underlay(settings: Settings) -> tuple[str, int] | None:
    """The link that VXLAN is sent from, with its MTU."""
    local = settings.fabric.local or host.underlay_address()
    if not local:
        return None
    root = Netspace("")
    try:
        addresses = root.addresses()
        for link in root.links().values():
            if any(str(address.ip) == local for address in addresses.get(link.index, ())):
                return link.name, link.mtu
    finally:
        root.close()
    return None


def _tokens(settings: Settings) -> str:
    try:
        TokenStore(Path(settings.paths.state)).all()
    except LvagentError as error:
        return error.message
    return ""


def _tls(settings: Settings) -> float | str | None:
    """When the certificate ends; why it cannot be used; None: there is none."""
    if not settings.api.tls_cert:
        return None
    try:
        context = server_context(settings.api)
        return None if context is None else certificates.expires_at(context, settings.api.tls_cert)
    except LvagentError as error:
        return str(error)
    except ssl.SSLError as error:
        return f"{settings.api.tls_cert}: {getattr(error, 'verify_message', '') or error.reason or error}"

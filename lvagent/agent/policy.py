"""From settings to what plans and renderings depend on."""

from __future__ import annotations

import logging
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import SpecError
from lvagent.host import host
from lvagent.plan.wanted import Policy
from lvagent.render import nft
from lvagent.render.domain import DomainOptions

log = logging.getLogger(__name__)

CONSOLES = "/var/log/libvirt/qemu"
"""Where the consoles' logs are: a folder that virtlogd may write to under every profile."""


def policy(settings: Settings) -> Policy:
    """What the wanted resources depend on."""
    return Policy(
        fabric=settings.fabric.netns,
        underlay_mtu=settings.fabric.mtu,
        local=settings.fabric.local or host.underlay_address(),
        port=settings.fabric.port,
        domain=settings.vpc.domain,
        forwarders=settings.vpc.forwarders,
        ruleset=nft.base_digest(limits=settings.filter),
        limits=settings.filter,
    )


def domain_options(settings: Settings) -> DomainOptions:
    """How domains are rendered on this host.

    :raise SpecError: a setting that is not one of its choices.
    """
    accel, why = host.accelerator(settings.guests.accel)
    log.info("guests run with %s", why)
    if settings.guests.firmware not in ("bios", "uefi"):
        raise SpecError("guests.firmware", f"{settings.guests.firmware!r} is not known", "bios or uefi")
    return DomainOptions(
        accel=accel,
        cpu=settings.guests.cpu,
        machine=settings.guests.machine,
        firmware=settings.guests.firmware,
        emulator=settings.guests.emulator,
        datasource=settings.guests.datasource,
        consoles=CONSOLES,
        fast_capabilities=settings.guests.fast_capabilities,
    )


def locks_folder(settings: Settings) -> Path:
    """Where the flocks of the VPCs are."""
    return Path(settings.paths.run) / "locks"

"""Reading all that ``fsck`` compares; nothing is changed by it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lvagent.agent.peering import KEY, stored
from lvagent.agent.policy import configs, float_wishes, policy, port_wishes
from lvagent.agent.vms import ABSENT, ABSENT_WITH_VOLUMES
from lvagent.config import Settings
from lvagent.doctor.fsck import Domain, Site, VpcFacts
from lvagent.errors import LvagentError, SpecError
from lvagent.host import netns, survey, sysctl
from lvagent.host.dnsmasq import DhcpServer
from lvagent.host.imds import MetadataService
from lvagent.host.libvirt import DomainRecord, Hypervisor
from lvagent.host.netspace import opened, translated
from lvagent.host.network import Network
from lvagent.host.run import run
from lvagent.host.volumes import VolumeStore
from lvagent.host.wishes import WishFiles
from lvagent.render.dnsmasq import lease_of
from lvagent.render.element import Element, find_element, parse_element
from lvagent.spec import names
from lvagent.spec.peerings import Peerings


class Reader:
    """Reads the site of one host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hypervisor = Hypervisor(settings.libvirt.uri, short=1, long=1)
        self._network = Network(settings)
        self._dhcp = DhcpServer(settings)
        self._metadata = MetadataService(settings)
        self._volumes = VolumeStore(settings)

    def close(self) -> None:
        """Let go of all."""
        self._network.close()
        self._hypervisor.close()

    def read(self) -> Site:
        """All of it.

        :raise LvagentError: libvirt or the underlay side could not be read.
        """
        secrets = frozenset(self._hypervisor.secrets())
        domains = [one for record in self._hypervisor.records() if (one := self._domain(record)) is not None]
        specs = [one.spec for one in domains if one.spec is not None]
        served = frozenset(self._metadata.vpcs())
        vpcs = {vpc for spec in specs for vpc in spec.vpcs} | self._network.vpcs() | self._dhcp.vpcs() | served
        fabric = self._settings.fabric.netns
        return Site(
            policy=dataclasses.replace(
                policy(self._settings),
                vpcs=configs(self._settings).all(),
                ports=port_wishes(self._settings).all(),
                floating=float_wishes(self._settings).all(),
            ),
            domains=domains,
            vpcs={vpc: self._vpc(vpc) for vpc in sorted(vpcs)},
            fabric=self._network.fabric(),
            fabric_sysctls=self._wrong(fabric, sysctl.FABRIC) if fabric else {},
            links=frozenset((*self._links(""), *(self._links(fabric) if fabric else ()))),
            secrets=secrets,
            peerings=Peerings(stored(WishFiles(Path(self._settings.paths.vpcs), KEY, "peering"))),
        )

    # libvirt

    def _domain(self, record: DomainRecord) -> Domain | None:
        """A domain of ours; None for a stranger's that has a name like ours."""
        try:
            texts = [find_element(xml) if xml else None for xml in (record.config, record.live)]
            config, live = (parse_element(text) if text else None for text in texts)
        except SpecError as error:
            return Domain(record.vm, None, trouble=f"its element of lvagent cannot be read: {error}")
        wish = max((one for one in (config, live) if one), key=lambda one: one.revision, default=None)
        if wish is None or wish.spec.id != record.vm:
            return None
        return self._ours(record, wish, (live or wish) if record.state.active else wish)

    def _ours(self, record: DomainRecord, wish: Element, carried: Element) -> Domain:
        data = self._hypervisor.secret(record.vm, wish.revision) if wish.has_user_data else None
        spec = dataclasses.replace(
            carried.spec, rules=wish.spec.rules, keys=wish.spec.keys, user_data=data
        )  # these reach a running guest at once, so the wish has them
        return Domain(
            record.vm,
            spec,
            running=record.state.active,
            stage=_stage(wish, record.state.active),
            volumes=self._judged(wish),
            lost_secret=wish.has_user_data and data is None,
        )

    def _judged(self, wish: Element) -> str:
        try:
            missing = self._volumes.check(wish.spec.volumes).missing
        except LvagentError as error:
            return f"its volume cannot be used: {error}"
        return f"its volume is not there: {', '.join(missing)}" if missing else ""

    # VPCs

    def _vpc(self, vpc: str) -> VpcFacts:
        try:
            there = self._network.observe(vpc)
            leases = self._dhcp.lease_file(vpc)
            return VpcFacts(
                there=there,
                dhcp=self._dhcp.look(vpc),
                dhcp_alive=self._dhcp.alive(vpc),
                leases=None if leases is None else frozenset(filter(None, map(lease_of, leases.splitlines()))),
                metadata=self._metadata.observe(vpc),
                fdb=frozenset(self._fdb(vpc)),
                sysctls=self._wrong(vpc, sysctl.VPC),
            )
        except LvagentError as error:
            return VpcFacts(trouble=f"it cannot be read: {error}")

    def _path(self, space: str) -> str:
        return f"{self._settings.paths.netns}/{space}"

    def _wrong(self, space: str, values: Mapping[str, int]) -> dict[str, tuple[str, int]]:
        with translated(space, "read the sysctls of"):
            try:
                return survey.wrong_sysctls(self._path(space), values)
            except netns.NameGone:
                return {}

    def _fdb(self, vpc: str) -> Iterator[tuple[str, str]]:
        """The forwarding entries of taps that do not age."""
        text = ""
        with translated(vpc, "read the FDB of"), suppress(netns.NameGone):
            text = netns.inside(self._path(vpc), lambda: run(["bridge", "-j", "fdb", "show"]))
        for one in json.loads(text or "[]"):
            if names.tap_owner(str(one.get("ifname"))) and one.get("state") in ("static", "permanent"):
                yield str(one["ifname"]), str(one.get("mac"))

    def _links(self, space: str) -> Iterator[tuple[str, str]]:
        """The links of ours in a namespace outside of VPCs."""
        with translated(space or "the root namespace", "read"), opened(self._path(space) if space else "") as there:
            if there is not None:
                for link in there.links().values():
                    if link.group == names.LINK_GROUP:
                        yield space, link.name


def _stage(wish: Element, active: bool) -> str:
    if wish.power in (ABSENT, ABSENT_WITH_VOLUMES):
        return "is being deleted, or its delete was interrupted"
    return "" if wish.created or active else "is being made, or was never finished"

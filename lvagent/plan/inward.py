"""What leads from outside into VPCs: published ports and floating addresses, and who stands in whose way.

    outside --- host address:8080 --- root: DNAT to the VPC's end of the uplink, the port stays
                                        |
                                      the VPC's namespace: DNAT to the VM and its port

Root cannot lead to a VM itself, for VPCs may have equal addresses. So a port of the host is one port in its VPC, on
whichever of the host's addresses it is published: there it leads to one VM.

What comes is led to a VM's first NIC, the one by which it answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from lvagent.errors import Conflict, SpecError
from lvagent.plan.resources import Inward, Resource
from lvagent.plan.uplinks import UplinkPolicy
from lvagent.spec.publications import Publication, implied
from lvagent.spec.vm import NetRule, Network, VmConfig
from lvagent.spec.vpc import UplinkMode

Ports = Mapping[str, tuple[Publication, ...]]
"""The publications of each VM."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A publication as it stands in a VPC: with the addresses of the VM to which it leads (None: in that IP version it
    leads nowhere)."""

    publication: Publication
    ipv4: str | None
    ipv6: str | None

    def address(self, version: int) -> str | None:
        """The address of the VM of an IP version."""
        return self.ipv4 if version == 4 else self.ipv6


def target(vm: VmConfig) -> Network | None:
    """The NIC to which it is led."""
    return vm.networks[0] if vm.networks else None


def versions(vm: VmConfig, policy: UplinkPolicy) -> set[int]:
    """The IP versions in which a VM can be reached from outside by an address of the host."""
    nic = target(vm)
    if nic is None:
        return set()
    return ({4} if nic.ipv4 else set()) | ({6} if nic.ipv6 and policy.ipv6 != "none" else set())


def openings(vpc: str, members: Iterable[VmConfig], ports: Ports, policy: UplinkPolicy) -> tuple[Opening, ...]:
    """What is published of a VPC, in order."""
    found = [
        _opening(one, vm, policy) for vm in members if _led(vm, vpc) for one in ports.get(vm.id, ()) if vm.networks
    ]
    return tuple(sorted(found, key=lambda one: (str(one.publication), str(one.ipv4), str(one.ipv6))))


def _led(vm: VmConfig, vpc: str) -> bool:
    nic = target(vm)
    return nic is not None and nic.netname == vpc


def _opening(one: Publication, vm: VmConfig, policy: UplinkPolicy) -> Opening:
    nic, known = vm.networks[0], versions(vm, policy)
    if one.address:
        known &= {ip_address(one.address).version}
    four = str(nic.ipv4.ip) if nic.ipv4 and 4 in known and one.sources_of(4) else None
    six = str(nic.ipv6.ip) if nic.ipv6 and 6 in known and one.sources_of(6) else None
    return Opening(one, four, six)


def rules(vm: VmConfig, vpc: str, ports: Ports, policy: UplinkPolicy) -> tuple[NetRule, ...]:
    """The rules that a VM's publications imply in a VPC that has a way out."""
    return implied(ports.get(vm.id, ()), versions(vm, policy)) if _led(vm, vpc) else ()


def keeping(wish: Iterable[Resource], there: Iterable[Resource]) -> frozenset[Resource]:
    """The wish of one who does not know all members: what leads into the VPC stays as it is, if there is anything."""
    kept = {one for one in there if isinstance(one, Inward)}
    return frozenset({one for one in wish if not (kept and isinstance(one, Inward))} | kept)


# who stands in whose way


def check(
    vm: VmConfig,
    wish: Iterable[Publication],
    others: Iterable[VmConfig],
    ports: Ports,
    mode: UplinkMode,
    policy: UplinkPolicy | None,
) -> None:
    """Refuse publications that cannot be.

    :param others: all VMs of this host, this one among them or not.
    :param mode: the way out of the VPC of the VM's first NIC.
    :raise SpecError: an address that is not the host's, or of an IP version that the VM does not have.
    :raise Conflict: the VPC has no way out; another VM has the port.
    """
    found = list(wish)
    if not found:
        return
    nic = target(vm)
    if nic is None:
        raise Conflict(f"{vm.id} has no NIC", other=vm.id, hint="what is published leads to its first NIC")
    if policy is None or mode is UplinkMode.NONE:
        hint = f"give it one: PUT /v1/vpcs/{nic.netname} with uplink nat or routed"
        raise Conflict(f"{nic.netname} has no uplink", other=nic.netname, hint=hint)
    rest = [one for one in others if one.id != vm.id]
    for index, one in enumerate(found):
        _check_address(one, vm, policy, f"[{index}].host_address")
        for other in rest:
            _check_other(one, vm, other, ports.get(other.id, ()), f"[{index}].host_port")


def _check_address(one: Publication, vm: VmConfig, policy: UplinkPolicy, path: str) -> None:
    if not one.address:
        return
    address = ip_address(one.address)
    transit = any(address in pool for pool in policy.pools if pool.version == address.version)
    if address not in policy.own or transit:
        hint = "an address that an interface of the host has, or none for any"
        raise SpecError(path, f"{address} is no address of this host", hint)
    if address.version not in versions(vm, policy):
        hint = "an address of the other IP version, or none for any"
        raise SpecError(path, f"{vm.id} cannot be reached by IPv{address.version}", hint)


def _check_other(one: Publication, vm: VmConfig, other: VmConfig, theirs: Iterable[Publication], path: str) -> None:
    near, far = target(vm), target(other)
    same = near is not None and far is not None and near.netname == far.netname
    for taken in theirs:
        if one.meets(taken) or (same and one.alike(taken)):
            where = "" if one.meets(taken) else f"; in {near.netname if near else ''} a port leads to one VM"
            hint = "another port of the host"
            raise Conflict(f"{taken} leads to {other.id}{where}", path=path, other=other.id, hint=hint)

"""What leads from outside into VPCs: published ports and floating addresses, and who stands in whose way.

    outside --- host address:8080 --- root: DNAT to the VPC's end of the uplink, the port stays
                                        |
                                      the VPC's namespace: DNAT to the VM and its port

Root cannot lead to a VM itself, for VPCs may have equal addresses. So a port of the host is one port in its VPC, on
whichever of the host's addresses it is published: there it leads to one VM.

What comes is led to a VM's first NIC, the one by which it answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from lvagent.errors import Conflict, SpecError
from lvagent.plan.resources import Inward, Proxy, Resource, Uplink
from lvagent.plan.uplinks import UplinkPolicy, routable
from lvagent.spec.addresses import Address, Net
from lvagent.spec.publications import Floating, Publication, implied
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


@dataclass(frozen=True, slots=True)
class Float:
    """A floating address as it stands: with the address of the VM to which it is led. ``link``: '': that as set."""

    address: str
    to: str
    link: str

    @property
    def version(self) -> int:
        """Its IP version."""
        return ip_address(self.address).version


def floats(
    vpc: str, members: Iterable[VmConfig], floating: Mapping[str, Floating], policy: UplinkPolicy
) -> tuple[Float, ...]:
    """The floating addresses that are led into a VPC, in order."""
    there = {vm.id: vm for vm in members if _led(vm, vpc)}
    found = [
        Float(one.address, to, one.interface or policy.ways.get(one.version, ""))
        for one in floating.values()
        if one.vm in there and (to := _reached(there[one.vm], one.version, policy))
    ]
    return tuple(sorted(found, key=lambda one: (one.version, int(ip_address(one.address)))))


def _reached(vm: VmConfig, version: int, policy: UplinkPolicy) -> str | None:
    """The address of a VM to which an address of an IP version can be led."""
    if version not in versions(vm, policy):
        return None
    nic = vm.networks[0]
    address = nic.ipv4 if version == 4 else nic.ipv6
    return None if address is None else str(address.ip)


def proxies(vpc: str, found: Iterable[Float], policy: UplinkPolicy) -> set[Resource]:
    """Where root answers for floating addresses: on links that are there."""
    return {Proxy(vpc, one.address, one.link) for one in found if one.link in policy.links}


def loose(found: Iterable[Floating], policy: UplinkPolicy | None) -> Iterator[tuple[str, str]]:
    """The VMs whose floating address has no link on this host to be found on, each with what to tell of it."""
    if policy is None:
        return
    for one in found:
        link = one.interface or policy.ways.get(one.version, "")
        if link not in policy.links:
            text = f"there is no link {link}" if link else "there is no default route"
            yield one.vm, f"nobody outside finds the floating address {one.address}: {text}"


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
    """The wish of one who does not know all members: what leads into the VPC stays as it is, if there is anything.

    So do its routes: floating addresses of those whom he does not know, and prefixes.
    """
    kept = {one for one in there if isinstance(one, Inward)}
    proxied = {one for one in there if isinstance(one, Proxy)}
    routes = {net for one in there if isinstance(one, Uplink) for net in one.routes}
    rest = {_leading(one, routes) for one in wish if not (kept and isinstance(one, Inward))}
    return frozenset(rest | kept | proxied)


def _leading(one: Resource, routes: set[Net]) -> Resource:
    """An uplink with the routes that it has besides; anything else as it is."""
    if not isinstance(one, Uplink):
        return one
    nets = sorted({*one.routes, *routes}, key=lambda net: (net.version, int(net.network_address), net.prefixlen))
    return dataclasses.replace(one, routes=tuple(nets))


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


def homes(vms: Iterable[VmConfig]) -> dict[str, frozenset[str]]:
    """The VPCs in which it is led to each VM; one that carries something else than it shall be may have several."""
    found: dict[str, frozenset[str]] = {}
    for vm in vms:
        nic = target(vm)
        if nic is not None:
            found[vm.id] = found.get(vm.id, frozenset()) | {nic.netname}
    return found


def check_nets(
    vpc: str,
    mode: UplinkMode,
    subnets: Mapping[str, Net],
    floating: Iterable[Floating],
    homes: Mapping[str, frozenset[str]],
    policy: UplinkPolicy,
) -> None:
    """Refuse prefixes of a VPC that cover a floating address: one that is led into it, or any if they are routed.

    :param subnets: of the VPC, by the path that an error names.
    :param homes: see ``homes``.
    :raise Conflict: one does; ``other`` is the VM to which the address is led.
    """
    outside = routable(mode, subnets.values(), policy)
    for one in floating:
        address = ip_address(one.address)
        mine = vpc in homes.get(one.vm, ())
        for path, net in subnets.items():
            if net.version == address.version and address in net and (mine or net in outside):
                text = f"{net} of {vpc} covers the floating address {address}, which is led to {one.vm}"
                hint = f"another prefix, or let the address go: DELETE /v1/floating/{address}"
                raise Conflict(text, path=path, other=one.vm, hint=hint)


def check_floating(
    one: Floating,
    vm: VmConfig,
    members: Iterable[VmConfig],
    mode: UplinkMode,
    policy: UplinkPolicy | None,
    routed: Iterable[tuple[str, Net]] = (),
) -> None:
    """Refuse a floating address that cannot be.

    :param members: of the VPC of the VM's first NIC.
    :param mode: the way out of that VPC.
    :param routed: other VPCs, each with a prefix that is routed to it.
    :raise SpecError: it is not of the link's network, or of an IP version that the VM does not have.
    :raise Conflict: the VPC has no way out; the link is not there; the address is the host's, or a VPC's.
    """
    nic, address = target(vm), ip_address(one.address)
    if nic is None:
        raise Conflict(f"{vm.id} has no NIC", other=vm.id, hint="what is led to it comes to its first NIC")
    if policy is None or mode is UplinkMode.NONE:
        hint = f"give it one: PUT /v1/vpcs/{nic.netname} with uplink nat or routed"
        raise Conflict(f"{nic.netname} has no uplink", other=nic.netname, hint=hint)
    if address.version not in versions(vm, policy):
        hint = "give the VM an address of that version, and the host uplink.ipv6"
        raise SpecError("vm", f"{vm.id} cannot be reached by IPv{address.version}", hint)
    whose = _whose(address, policy)
    if whose:
        raise Conflict(f"{address} is {whose}", path="address", hint="another address of the network")
    for other in members:
        for own in (each for near in other.networks if near.netname == nic.netname for each in (near.ipv4, near.ipv6)):
            if own is not None and own.version == address.version and address in own.network:
                hint = "another address, or another prefix in the VPC"
                raise Conflict(f"{address} is in {own.network} of {nic.netname}", path="address", hint=hint)
    for vpc, net in routed:
        if net.version == address.version and address in net:
            text = f"{address} is in {net}, which is routed to {vpc}"
            raise Conflict(text, path="address", other=vpc, hint="another address")
    _check_link(one, policy)


def _whose(address: Address, policy: UplinkPolicy) -> str:
    """What an address is that this host needs where it is, whether it answers at the moment or not; '': nothing."""
    if address in policy.own:
        return "an address of this host itself"
    if address in policy.routers:
        return "a router of this host"
    if str(address) in policy.resolvers:
        return "a DNS server of this host"
    pool = next((one for one in policy.pools if one.version == address.version and address in one), None)
    return f"of {pool}, the pool of uplinks" if pool else ""


def _check_link(one: Floating, policy: UplinkPolicy) -> None:
    address, link = ip_address(one.address), one.interface or policy.ways.get(one.version, "")
    if not link:
        hint = "name the interface, or set uplink.interface"
        raise Conflict(f"this host has no default route of IPv{one.version}", path="interface", hint=hint)
    if link not in policy.links:
        raise Conflict(f"this host has no link {link}", path="interface", other=link, hint="ip link shows them")
    nets = [own.network for own in policy.links[link] if own.version == address.version and not own.is_link_local]
    if not any(address in net and _is_host(address, net) for net in nets):
        hint = f"an address of a host in {', '.join(map(str, nets)) or 'a network of IPv' + str(one.version)}"
        raise SpecError("address", f"{address} is not of the network of {link}", hint)


def _is_host(address: Address, net: Net) -> bool:
    """Whether an address in a net is a host's."""
    if net.prefixlen >= net.max_prefixlen - 1:
        return True
    return address != net.network_address and (net.version == 6 or address != net.broadcast_address)

"""The walk of a packet from its sender to its target: who sends it from where, and then what it meets."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from lvagent.plan.explain import inside, inward, outside, receiver
from lvagent.plan.explain.facts import Facts, address_of, is_extra, on_link, own_addresses
from lvagent.plan.explain.way import Stopped, Way
from lvagent.spec import names
from lvagent.spec.addresses import Address
from lvagent.spec.flow import WORLD, End, Flow, Goal, Packet, Stage, Walk
from lvagent.spec.vm import Network, VmConfig

STRANGERS: dict[int, Address] = {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8::1")}
"""Who asks from the world, if nobody in particular does (addresses for documentation: RFC 5737, RFC 3849)."""


def explain(flow: Flow, facts: Facts) -> Walk:
    """The way of a flow's first packet.

    :param flow: the VMs that it names are there.
    :raise SpecError: it is one of which nothing can be said.
    """
    way = Way(flow, facts)
    known = End(Goal.PORT, vm=flow.target) if isinstance(flow.target, str) else End(Goal.WORLD)
    try:
        if flow.origin == WORLD:
            _from_world(way)
        else:
            _from_vm(way, facts.vms[flow.origin])
    except Stopped:
        pass
    return way.walk(known)


# from a VM


def _from_vm(way: Way, vm: VmConfig) -> None:
    destination = _aim(way, vm)
    nic = _departure(way, vm, destination)
    tap, flow = names.tap(vm.id, nic.position), way.flow
    own = flow.source or address_of(nic, destination.version)
    if own is None:
        text = f"{vm.id} has no IPv{destination.version} address on its NIC {nic.position}"
        way.stop(Stage.GUEST, vm.id, "no address", text)
        return
    way.packet = Packet(own, destination, flow.number, flow.port)
    way.vpc, way.entry = nic.netname, tap
    way.end = goal(way, nic.netname)
    if vm.id not in way.facts.running:
        way.stop(Stage.GUEST, vm.id, "it does not run", f"{vm.id} does not run: it sends nothing")
    way.passes(Stage.GUEST, vm.id, "", f"{vm.id} sends it from {own}, by its NIC {nic.position} in {nic.subnetname}")
    _port(way, nic, tap)
    _check_other(way, vm, nic.netname)
    inside.go_on(way, vm, nic)


def _check_other(way: Way, vm: VmConfig, vpc: str) -> None:
    """See that the packet is for somebody else."""
    there = [nic for nic in vm.networks if nic.netname == vpc]
    address = way.packet.destination
    if any(address in own_addresses(nic) or is_extra(nic, address) for nic in there):
        receiver.check_met(way, vm.id, vm.id)
        way.stop(Stage.GUEST, vm.id, "the sender itself", f"{address} is the sender's own: it stays in the guest")


def _aim(way: Way, vm: VmConfig) -> Address:
    """The address that is sent to: of the target's NICs the nearest."""
    flow = way.flow
    if not isinstance(flow.target, str):
        return flow.target
    versions = [flow.version] if flow.version else [4, 6]
    target = way.facts.vms[flow.target]
    found = [
        (_distance(way.facts, vm, nic, version), version, nic.position, address)
        for version in versions
        for nic in target.networks
        if (address := address_of(nic, version)) is not None
    ]
    if not found:
        kind = f"IPv{flow.version} " if flow.version else ""
        way.stop(Stage.ARRIVAL, target.id, "no address", f"{target.id} has no {kind}address")
    return min(found, key=lambda one: one[:3])[3]


def _distance(facts: Facts, vm: VmConfig, nic: Network, version: int) -> int:
    """How far a NIC is from a VM: on its link, in its VPC, in one that is peered, elsewhere, not to be spoken to."""
    own = [one for one in vm.networks if address_of(one, version) is not None]
    if any(one.subnetname == nic.subnetname for one in own):
        return 0
    if any(one.netname == nic.netname for one in own):
        return 1
    if any(one.vpc == nic.netname for mine in own for one in facts.near(mine.netname)):
        return 2
    return 3 if own else 4


def _departure(way: Way, vm: VmConfig, destination: Address) -> Network:
    """The NIC that a guest sends by: the one whose subnet the address is of, else the one with the default route."""
    having = [nic for nic in vm.networks if address_of(nic, destination.version) is not None]
    source = way.flow.source
    if source is not None:
        bound = [nic for nic in vm.networks if source in own_addresses(nic) or is_extra(nic, source)]
        having = [nic for nic in having if nic in bound] or having
    direct = [nic for nic in having if on_link(nic, destination)]
    if direct:
        return direct[0]
    first = next((nic for nic in having if nic.position == 0), None)
    if first is None:
        why = f"the first NIC has the default route, and {vm.id} has none with an IPv{destination.version} address"
        way.stop(Stage.GUEST, vm.id, "no default route", f"{vm.id} has no way to {destination}: {why}")
        raise Stopped
    return first


def _port(way: Way, nic: Network, tap: str) -> None:
    source, packet = way.packet.source, way.packet
    if source in own_addresses(nic):
        way.passes(Stage.PORT, tap, "", f"the port is bound to {source} and {nic.mac}")
    elif is_extra(nic, source):
        way.passes(Stage.PORT, tap, "", f"{source} is one of the extra addresses of the port")
    else:
        bound = ", ".join(map(str, (*own_addresses(nic), *nic.extra_addresses)))
        way.stop(Stage.PORT, tap, "anti-spoof", f"{tap} may send from {bound}, and not from {source}")
    if packet.number == 17 and packet.port == {4: 68, 6: 546}[packet.version]:
        way.stop(Stage.PORT, tap, "DHCP", f"udp {packet.port} is what DHCP servers send to, and a guest is none")


def goal(way: Way, vpc: str) -> End:
    """Where the packet is meant to arrive.

    :param vpc: where it is sent from; '': the world.
    """
    target, packet = way.flow.target, way.packet
    if isinstance(target, str):
        return End(Goal.PORT, _place(way.facts.vms[target].networks, packet.destination), target)
    return outside.end_of(way.facts, vpc, packet)


def _place(nics: Sequence[Network], address: Address) -> str:
    """The VPC in which a VM gets what is sent to an address: that of its NIC which has it, else of the first."""
    return next((nic.netname for nic in nics if address in own_addresses(nic)), nics[0].netname if nics else "")


# from the world


def _from_world(way: Way) -> None:
    flow, target = way.flow, way.flow.target
    destination = _meant(way, way.facts.vms[target]) if isinstance(target, str) else target
    source = flow.source or STRANGERS[destination.version]
    way.packet = Packet(source, destination, flow.number, flow.port)
    way.end = goal(way, "")
    way.passes(Stage.HOST, "world", "", f"it comes to this host from {source}")
    outside.come(way)


def _meant(way: Way, target: VmConfig) -> Address:
    """The address by which the world may know a VM: one that is routed or led to it, the host's, else its first."""
    versions = [way.flow.version] if way.flow.version else [4, 6]
    found = [
        (0 if outside.routed_to(way.facts, nic.netname, address) else 3, version, nic.position, address)
        for version in versions
        for nic in target.networks
        if (address := address_of(nic, version)) is not None
    ]
    doors = [one for one in inward.doors(way.facts, target.id, way.flow) if one[1].version in versions]
    found += [(1 + rank, address.version, index, address) for index, (rank, address) in enumerate(doors)]
    if not found:
        kind = f"IPv{way.flow.version} " if way.flow.version else ""
        way.stop(Stage.ARRIVAL, target.id, "no address", f"{target.id} has no {kind}address")
    return min(found, key=lambda one: one[:3])[3]

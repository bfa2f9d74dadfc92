"""One NIC from its model: addresses, MACs, MTU."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lvagent.errors import SpecError
from lvagent.spec import limits, names
from lvagent.spec.addresses import V4, V6, Address, Net, check_unicast, parse_net, resolve, within
from lvagent.spec.json import quoted
from lvagent.spec.schema import NetworkModel
from lvagent.spec.vm import Network

_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:(:|-)[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4})\Z")
_MAC_HINT = "such as 06:00:00:00:00:01"


def parse_nic(vm: str, model: NetworkModel, path: str) -> Network:
    """A NIC with every address complete and its MAC filled in.

    :param vm: id of the VM, from which its MAC is computed.
    :raise SpecError: under ``path``.
    """
    v4 = resolve(V4, model.ipv4, model.gateway_v4, path)
    v6 = resolve(V6, model.ipv6, model.gateway_v6, path)
    if v4 is None and v6 is None:
        raise SpecError(
            f"{path}.ipv4", "the NIC has no address", "give ipv4 and gateway_v4, ipv6 and gateway_v6, or both"
        )
    if model.mtu is not None and v6 is not None and model.mtu < limits.MIN_MTU_V6:
        raise SpecError(f"{path}.mtu", f"{model.mtu} is too small for IPv6", f"at least {limits.MIN_MTU_V6} (RFC 8200)")
    mac = _own_mac(vm, model, path)
    return Network(
        vxlanid=model.vxlanid,
        netname=model.netname,
        subnetname=model.subnetname,
        position=model.position,
        mac=mac,
        ipv4=v4[0] if v4 else None,
        gateway_v4=v4[1].ip if v4 else None,
        ipv6=v6[0] if v6 else None,
        gateway_v6=v6[1].ip if v6 else None,
        extra_addresses=_extra_addresses(model, [pair[1].ip for pair in (v4, v6) if pair], path),
        extra_macs=_extra_macs(model, mac, path),
        mtu=model.mtu,
    )


def _own_mac(vm: str, model: NetworkModel, path: str) -> str:
    if not model.mac:
        return names.nic_mac(vm, model.position)
    return _mac(model.mac, model.subnetname, f"{path}.mac")


def _mac(text: str, subnet: str, path: str) -> str:
    """The MAC in lower case with colons. The octet fe is left to taps: libvirt sets it on the host's end of each."""
    if not _MAC.match(text):
        raise SpecError(path, f"{quoted(text)} is no MAC address", _MAC_HINT)
    mac = text.replace("-", ":").lower()
    if int(mac[:2], 16) & 1:
        raise SpecError(path, f"{mac} is a group address (its first octet is odd)", _MAC_HINT)
    if mac == "00:00:00:00:00:00" or mac.startswith("fe:"):
        raise SpecError(path, f"{mac} cannot be a guest's address", _MAC_HINT)
    if mac == names.gateway_mac(subnet):
        raise SpecError(path, f"{mac} is the MAC of the gateway of {subnet}", "choose another, or leave it out")
    return mac


def _extra_macs(model: NetworkModel, own: str, path: str) -> tuple[str, ...]:
    found = {
        _mac(text, model.subnetname, f"{path}.extra_macs[{index}]") for index, text in enumerate(model.extra_macs or ())
    }
    return tuple(sorted(found - {own}))


def _extra_addresses(model: NetworkModel, gateways: Sequence[Address], path: str) -> tuple[Net, ...]:
    """Sorted, and none within another: a filter's interval set holds no overlaps."""
    found = {
        _extra_address(text, gateways, f"{path}.extra_addresses[{index}]")
        for index, text in enumerate(model.extra_addresses or ())
    }
    kept = [net for net in found if not any(net != other and within(net, other) for other in found)]
    return tuple(sorted(kept, key=lambda net: (net.version, int(net.network_address))))


def _extra_address(text: str, gateways: Sequence[Address], path: str) -> Net:
    net = parse_net(text, path)
    if net.prefixlen == 0:
        raise SpecError(path, f"{net} is every address", "name the nets that the port speaks for")
    for gateway in gateways:
        if gateway.version == net.version and gateway in net:
            raise SpecError(path, f"{net} covers the gateway {gateway}", "leave the gateway out of it")
    check_unicast(net, path)
    return net

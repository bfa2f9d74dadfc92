"""From a VmConfig to JSON: every field in canonical spelling, null where there is none.

``parse_vm(dump_vm(vm, secrets=True))`` is the same VM again.
"""

from __future__ import annotations

import base64
import hashlib
import json

from lvagent.spec.vm import NetRule, Network, VmConfig, Volume


def dump_vm(vm: VmConfig, *, secrets: bool) -> dict[str, object]:
    """The VM as JSON values.

    :param secrets: whether user data is in it; without, the member ``user_data`` is not there at all.
    """
    document: dict[str, object] = {
        "id": vm.id,
        "memory_mb": vm.memory_mb,
        "cpus": vm.cpus,
        "volumes": [_volume(volume) for volume in vm.volumes],
        "networks": [_network(nic) for nic in vm.networks],
        "rules": [dump_rule(rule) for rule in vm.rules],
        "keys": list(vm.keys),
        "datasource": _text(vm.datasource),
        "restart": vm.restart.value,
    }
    if secrets:
        document["user_data"] = _user_data(vm.user_data)
    return document


def digest(vm: VmConfig) -> str:
    """SHA-256 (hex) of the VM without its secrets; equal specs have equal digests, in every version of Python."""
    text = json.dumps(dump_vm(vm, secrets=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _volume(volume: Volume) -> dict[str, object]:
    return {
        "path": volume.path,
        "position": volume.position,
        "size_gb": volume.size_gb,
        "image": volume.image,
        "readonly": volume.readonly,
    }


def _network(nic: Network) -> dict[str, object]:
    return {
        "vxlanid": nic.vxlanid,
        "netname": nic.netname,
        "subnetname": nic.subnetname,
        "position": nic.position,
        "ipv4": _text(nic.ipv4),
        "gateway_v4": _text(nic.gateway_v4),
        "ipv6": _text(nic.ipv6),
        "gateway_v6": _text(nic.gateway_v6),
        "mac": nic.mac,
        "extra_addresses": [str(net) for net in nic.extra_addresses],
        "extra_macs": list(nic.extra_macs),
        "mtu": nic.mtu,
    }


def dump_rule(rule: NetRule) -> dict[str, object]:
    """A rule as JSON."""
    return {
        "proto": rule.proto,
        "port": rule.port,
        "port_end": rule.port_end,
        "source": rule.source,
        "destination": rule.destination,
        "direction": _text(rule.direction),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _user_data(raw: bytes | None) -> str | dict[str, str] | None:
    """As text if a strict JSON string can hold it (UTF-8, no NUL), else in base64."""
    if raw is None:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    return text if "\0" not in text else {"base64": base64.b64encode(raw).decode()}

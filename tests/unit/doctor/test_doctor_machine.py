"""What the doctor says of a host's facts: one fact is changed at a time, and one finding with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lvagent.config import Api, FabricSettings, Guests, Settings
from lvagent.doctor.findings import Finding, Kind, Level, Repair, exit_code, failed, passed, repairs, unknown, warned
from lvagent.doctor.machine import DAY, Folder, Machine, judge
from lvagent.host.survey import PROBING, Daemon, FileFacts, Space
from lvagent.host.survey_libvirt import LibvirtFacts

HOOK = "/etc/libvirt/hooks/qemu.d/lvagent"
NOW = 1_800_000_000.0
ROOM = Space(50 << 30, 100 << 30, 10**6, 10**7)
VOLUMES = "/var/lib/lvagent/volumes"

WELL = Machine(
    settings=Settings(),
    release="6.1.0-30-amd64",
    features={"vxlan": "", "tun": ""},
    accel=("kvm", "KVM: /dev/kvm opens and the CPU has vmx or svm"),
    kvm=("kvm", "KVM: /dev/kvm opens and the CPU has vmx or svm"),
    bridge_calls={"iptables": 0, "ip6tables": 0},
    bridge_conntrack=False,
    hook=FileFacts("file", 0o755, 0, NOW - 1000),
    hook_path=HOOK,
    hook_text="# lvagent",
    hook_wanted="# lvagent",
    daemons=(Daemon("libvirtd", 7, NOW - 500),),
    libvirt=LibvirtFacts(9_000_000, 7_002_000, "/usr/bin/qemu-system-x86_64"),
    emulator_version="QEMU emulator version 7.2.0",
    confinement="AppArmor is on",
    open_files=262_144,
    accounts={"lvagent-metadata": True},
    folders={VOLUMES: Folder(FileFacts("folder", 0o711, 0), 0o711, True, ROOM)},
    programs={"dnsmasq": "/usr/sbin/dnsmasq", "curl": "/usr/bin/curl"},
    dnsmasq_version="Dnsmasq version 2.90  Copyright (c) Simon Kelley",
    clock_kept=True,
    now=NOW,
    underlay=("eth0", 1500),
)


def wrong(host: Machine) -> list[Finding]:
    return [one for one in judge(host) if one.level is not Level.PASS]


def test_a_well_host_has_nothing_but_passes() -> None:
    assert wrong(WELL) == []
    assert len(judge(WELL)) >= len(dataclasses.fields(Machine)) // 2


def folder(kind: str = "folder", mode: int = 0o711, uid: int = 0, **more: Any) -> dict[str, Folder]:  # noqa: ANN401
    given = {"mode": 0o711, "passed": True, "space": ROOM, **more}
    return {VOLUMES: Folder(FileFacts(kind, mode, uid), **given)}


MEND = Repair(Kind.FOLDER, VOLUMES, value=0o711)
INSTALL = Repair(Kind.HOOK, HOOK)
OTHER_DAEMONS = (*WELL.daemons, Daemon("NetworkManager", 9, NOW))

CASES: dict[str, tuple[dict[str, Any], Level, str, Repair | None]] = {
    "emulation": ({"accel": ("qemu", "software emulation: x")}, Level.WARN, "software emulation", None),
    "KVM that is not there": ({"kvm": ("qemu", "/dev/kvm cannot be opened")}, Level.FAIL, "cannot be opened", None),
    "old kernel": ({"release": "5.10.0-9-amd64"}, Level.FAIL, "too old", None),
    "no probes": ({"features": {PROBING: "Operation not supported"}}, Level.WARN, "not supported", None),
    "no vxlan": ({"features": {"vxlan": "Unknown device type"}}, Level.FAIL, "Unknown device type", None),
    "br_netfilter": ({"bridge_calls": {}}, Level.WARN, "not loaded", None),
    "no hook": ({"hook": FileFacts("absent"), "hook_text": None}, Level.FAIL, "is not there", INSTALL),
    "hook is a link": ({"hook": FileFacts("link", 0o777)}, Level.FAIL, "is a link", None),
    "stranger's hook": ({"hook_text": "#!/bin/sh"}, Level.FAIL, "not of lvagent", None),
    "hook not executable": ({"hook": FileFacts("file", 0o644)}, Level.FAIL, "mode 0644", INSTALL),
    "hook for all to write": ({"hook": FileFacts("file", 0o757)}, Level.FAIL, "mode 0757", INSTALL),
    "old hook": ({"hook_text": "# lvagent 0"}, Level.WARN, "another version", INSTALL),
    "new hook": ({"hook": FileFacts("file", 0o755, 0, NOW)}, Level.WARN, "finds new hooks at a reload only", None),
    "no libvirt": ({"libvirt": "libvirtd is not available"}, Level.FAIL, "not available", None),
    "old libvirt": ({"libvirt": LibvirtFacts(8_000_000, 0, "/q")}, Level.FAIL, "8.0.0 is too old", None),
    "no qemu": ({"libvirt": LibvirtFacts(9_000_000, 0, "")}, Level.FAIL, "no emulator", None),
    "unconfined": ({"confinement": "neither AppArmor nor SELinux"}, Level.WARN, "neither", None),
    "few files": ({"open_files": 1024}, Level.FAIL, "at most 1024", None),
    "no account": ({"accounts": {"lvagent-images": False}}, Level.FAIL, "no lvagent-images", None),
    "folder gone": ({"folders": folder("absent")}, Level.FAIL, "is not there", MEND),
    "folder is a link": ({"folders": folder("link")}, Level.FAIL, "is a link", None),
    "folder open": ({"folders": folder(mode=0o777)}, Level.FAIL, "others may write", MEND),
    "folder shut": ({"folders": folder(mode=0o700)}, Level.FAIL, "cannot pass", MEND),
    "folder of another": ({"folders": folder(uid=1000)}, Level.FAIL, "belongs to uid 1000", MEND),
    "state open": ({"folders": folder(mode=0o755, passed=False)}, Level.FAIL, "look into it", MEND),
    "full": ({"folders": folder(space=Space(1 << 20, 1 << 40, 10**6, 10**7))}, Level.WARN, "0.0 GiB", None),
    "no inodes": ({"folders": folder(space=Space(1 << 40, 1 << 41, 5, 10**7))}, Level.WARN, "5 files", None),
    "no dnsmasq": ({"programs": {"dnsmasq": ""}}, Level.FAIL, "there is no dnsmasq", None),
    "old dnsmasq": ({"dnsmasq_version": "Dnsmasq version 2.79"}, Level.FAIL, "too old", None),
    "clock alone": ({"clock_kept": False}, Level.WARN, "nobody keeps it right", None),
    "clock behind": ({"now": 86_400.0, "hook": FileFacts("file", 0o755)}, Level.FAIL, "years behind", None),
    "small MTU": ({"underlay": ("eth0", 1400)}, Level.FAIL, "eth0 has MTU 1400, fabric.mtu says 1500", None),
    "jumbo setting": ({"settings": Settings(fabric=FabricSettings(mtu=9000))}, Level.FAIL, "1500", None),
    "NetworkManager": (
        {"daemons": OTHER_DAEMONS, "drop_ins": {"/etc/NetworkManager/conf.d/lvagent.conf": False}},
        Level.WARN,
        "may act on our links",
        None,
    ),
    "tokens": ({"tokens": "its mode is 0644, not 0600"}, Level.FAIL, "0644", None),
    "TLS broken": ({"tls": "cannot be used with its key"}, Level.FAIL, "with its key", None),
    "TLS soon": ({"tls": NOW + 5 * DAY}, Level.WARN, "in 5 days", None),
}


@pytest.mark.parametrize("name", CASES)
def test_one_fact_one_finding(name: str) -> None:
    change, level, text, repair = CASES[name]
    found = wrong(dataclasses.replace(WELL, **change))
    assert [(one.level, one.repair) for one in found] == [(level, repair)], found
    assert text in found[0].text
    assert found[0].remedy


@pytest.mark.parametrize(
    "change",
    [
        {"underlay": None},
        {"underlay": ("eth0", 9000)},
        {"tls": NOW + 90 * DAY},
        {"daemons": OTHER_DAEMONS, "drop_ins": {"/etc/NetworkManager/conf.d/lvagent.conf": True}},
        {"daemons": ()},
        {"settings": Settings(api=Api(group=""))},
    ],
)
def test_what_is_fine_too(change: dict[str, Any]) -> None:
    assert wrong(dataclasses.replace(WELL, **change)) == []


def test_emulation_that_was_asked_for_has_no_remedy() -> None:
    host = dataclasses.replace(WELL, accel=("qemu", "as said"), settings=Settings(guests=Guests(accel="tcg")))
    assert [(one.level, one.remedy) for one in wrong(host)] == [(Level.WARN, "")]


def test_exit_codes_and_the_order_of_repairs() -> None:
    sweep, link = Repair(Kind.SWEEP), Repair(Kind.LINK, "lvx9")
    well, warning, bad, blind = passed("a", "b"), warned("a", "b"), failed("a", "b", "", sweep), unknown("a", "b")
    assert [exit_code(found) for found in ([well, warning], [bad, blind], [well, blind], [])] == [0, 1, 2, 0]
    assert repairs([bad, bad, failed("c", "d", "", link)]) == (link, sweep)
    assert len({str(Repair(kind, "x", "y", 1)) for kind in Kind}) == len(Kind)

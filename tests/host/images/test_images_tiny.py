"""The tiny image as a guest: its addresses, metadata, SSH, power button, and what it does when things come late."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from lvagent.config import Settings
from lvagent.host.images import CMDLINE, tiny_kernel
from tests.host.images.cloud import MTU, Cloud, ec2, overlay

pytestmark = pytest.mark.host

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF5P4p9cX3v6o9p0DqP5zqkC7f7V7QyqvV5y0l2wq0Qy other"
USER_DATA = b"#!/bin/sh\necho ran >> /root/ran\nhostname >> /root/ran\n"


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_guest_takes_addresses_name_keys_and_user_data_and_obeys_the_power_button(two_nics: Cloud, tiny: Path) -> None:
    two_nics.serve_dhcp()
    two_nics.serve_metadata(ec2("i-0000000001", "web", [two_nics.public_key, OTHER_KEY], USER_DATA))
    guest = two_nics.boot(overlay(tiny, two_nics.folder, "1G"))
    _, ready = guest.wait_for(r"TINY-READY (\S+) up=([0-9.]+)")
    assert ready[1] == "web"
    told = {match[1] for _, text in guest.lines if (match := re.search(r"(TINY-(?:NET|MD) .*)", text))}
    assert told >= {"TINY-NET eth0 10.9.0.5/24", "TINY-NET eth1 10.9.1.5/24", "TINY-MD id=i-0000000001 keys=2"}
    assert lines(guest.ssh("cat /root/.ssh/authorized_keys")) == [two_nics.public_key, OTHER_KEY]
    guest.wait_for(r"TINY-USER-DATA exit=0")
    assert lines(guest.ssh("cat /root/ran; hostname; cat /etc/hostname")) == ["ran", "web", "web", "web"]

    guest.wait_for(r"TINY-NET eth0 fd09::5/128")
    guest.wait_for(r"TINY-NET eth1 fd09:1::5/128")
    held = guest.ssh("ip -o addr show scope global")
    assert set(re.findall(r"(eth\d) +inet6? (\S+)", held)) == {
        ("eth0", "10.9.0.5/24"),
        ("eth1", "10.9.1.5/24"),
        ("eth0", "fd09::5/128"),
        ("eth1", "fd09:1::5/128"),
    }
    defaults = guest.ssh("ip route show default; ip -6 route show default")
    assert re.findall(r"default via (\S+) dev (\S+)", defaults) == [
        ("10.9.0.1", "eth0"),
        (re.search(r"(fe80::\S+)", defaults)[1], "eth0"),  # type: ignore[index]
    ]
    assert lines(guest.ssh("cat /sys/class/net/eth*/mtu")) == [str(MTU), str(MTU)]
    assert lines(guest.ssh("cat /etc/resolv.conf")) == ["search vpc.internal", "nameserver 10.9.0.1"]
    assert "10.9.1.5" in guest.ssh("nslookup guest1.vpc.internal")
    guest.ssh("ping -c1 10.9.0.1 && ping -6 -c1 fd09::1 && ping -6 -c1 fd09:1::1 && arping -c1 -I eth0 10.9.0.1")
    assert guest.ssh("wget -q -O - http://[fd00:ec2::254]/latest/meta-data/instance-id") == "i-0000000001"
    assert guest.ssh("hostname", address="fd09::5") == "web\n"

    guest.press_power()
    assert guest.process.wait(90) == 0


def test_reboot_keeps_the_host_key_and_runs_user_data_once(one_nic: Cloud, tiny: Path) -> None:
    one_nic.serve_dhcp()
    one_nic.serve_metadata(ec2("i-0000000002", "again", [one_nic.public_key], USER_DATA))
    guest = one_nic.boot(overlay(tiny, one_nic.folder, "1G"))
    guest.wait_for("TINY-USER-DATA exit=0")
    before = guest.ssh("md5sum /etc/dropbear/key; cat /root/ran")
    boot_id = guest.ssh("cat /proc/sys/kernel/random/boot_id")
    guest.ssh("(sleep 1; reboot) > /dev/null 2>&1 &")
    end = time.monotonic() + 180
    while sum("TINY-READY again" in text for _, text in guest.lines) < 2:
        assert time.monotonic() < end, guest.console()
        time.sleep(0.2)
    assert guest.ssh("md5sum /etc/dropbear/key; cat /root/ran") == before
    assert guest.ssh("cat /proc/sys/kernel/random/boot_id") != boot_id

    # Another instance on the same disk: its user data runs.
    one_nic.documents.update(ec2("i-0000000003", "other", [one_nic.public_key], USER_DATA))
    guest.ssh("(sleep 1; reboot) > /dev/null 2>&1 &")
    guest.wait_for("TINY-READY other")
    end = time.monotonic() + 90
    while lines(guest.ssh("cat /root/ran")) != ["ran", "again", "ran", "other"]:
        assert time.monotonic() < end
        time.sleep(0.5)


def test_servers_that_come_late_are_waited_for(one_nic: Cloud, tiny: Path) -> None:
    guest = one_nic.boot(overlay(tiny, one_nic.folder, "1G"))
    guest.wait_for("BusyBox")
    time.sleep(8)
    one_nic.serve_dhcp()
    guest.wait_for("TINY-NET eth0 10.9.0.5/24")
    time.sleep(2)
    one_nic.serve_metadata(ec2("i-0000000004", "patient", [one_nic.public_key]))
    guest.wait_for("TINY-READY patient")
    assert guest.ssh("hostname") == "patient\n"


def test_boots_in_96_mb_and_from_kernel_files(one_nic: Cloud, tiny: Path, image_settings: Settings) -> None:
    one_nic.serve_dhcp()
    one_nic.serve_metadata(ec2("i-0000000005", "small", [one_nic.public_key]))
    guest = one_nic.boot(overlay(tiny, one_nic.folder, "1G"), memory=96)
    guest.wait_for("TINY-READY small")
    assert guest.ssh("cat /proc/cmdline").split()[-len(CMDLINE.split()) :] == CMDLINE.split()
    guest.press_power()
    assert guest.process.wait(90) == 0

    kernel, initrd = tiny_kernel(image_settings, watch=lambda _: None)
    options = ("-kernel", str(kernel), "-initrd", str(initrd), "-append", CMDLINE)
    direct = one_nic.boot(overlay(tiny, one_nic.folder, "1G"), *options)
    direct.wait_for("TINY-READY small")
    assert direct.ssh("hostname") == "small\n"


def test_login_is_by_key_alone(one_nic: Cloud, tiny: Path) -> None:
    one_nic.serve_dhcp()
    one_nic.serve_metadata(ec2("i-0000000006", "closed", [OTHER_KEY]))
    guest = one_nic.boot(overlay(tiny, one_nic.folder, "1G"))
    guest.wait_for("TINY-READY closed")
    with pytest.raises(AssertionError, match=r"Permission denied \(publickey\)"):
        guest.ssh("true", timeout=15)

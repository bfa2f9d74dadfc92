"""Whose a qemu process is: a table of cases; and what is told of its arguments."""

from __future__ import annotations

import time

import pytest

from lvagent.spec.strays import Process, Running, Sort, monitors, sort_process, without_secrets

VM = "i-0000000001"
UUID = "11111111-2222-4333-8444-555555555555"
OURS = Running(VM, UUID, 100, ours=True)
THEIRS = Running("web", "99999999-2222-4333-8444-555555555555", 200, ours=False)
BY_HAND = ("qemu-system-x86_64", "-machine", "none", "-display", "none", "-S")
OF_LIBVIRT = ("/usr/bin/qemu-system-x86_64", "-name", "guest=web,debug-threads=on", "-S", "-uuid", THEIRS.uuid)
OF_OURS = ("/usr/bin/qemu-system-x86_64", "-name", f"guest={VM},debug-threads=on", "-S", "-uuid", UUID)
SCOPE = "0::/machine.slice/machine-qemu\\x2d1\\x2dweb\\x2dtwo.scope/libvirt/emulator\n"


def process(pid: int = 300, *arguments: str, state: str = "S", **more: object) -> Process:
    made = Process(
        pid=pid, identity="1", state=state, program="/usr/bin/qemu-system-x86_64", age=1.0, uid=0, parent=7,
        parent_name="sh", arguments=arguments,
    )  # fmt: skip
    return made if not more else Process(**{**{name: getattr(made, name) for name in made.__slots__}, **more})  # type: ignore[arg-type]


CASES: dict[str, tuple[Process, Sort]] = {
    "libvirt runs it, ours": (process(100, *OF_OURS), Sort.KNOWN),
    "libvirt runs it, and its arguments lie": (process(100, *BY_HAND), Sort.KNOWN),
    "libvirt runs it, a stranger's": (process(200, *OF_LIBVIRT), Sort.STRANGER),
    "a stranger's that says it is ours": (process(200, *OF_OURS), Sort.STRANGER),
    "a second one of ours": (process(300, *OF_OURS), Sort.LOST),
    "a second one of a stranger's": (process(300, *OF_LIBVIRT), Sort.STRANGER),
    "by hand": (process(300, *BY_HAND), Sort.NOBODY),
    "by hand, stopped": (process(300, *BY_HAND, state="T"), Sort.NOBODY),
    "by hand, with a tap of ours": (process(300, *BY_HAND, taps=("t0000000001-0",)), Sort.LOST),
    "by hand, with another tap": (process(300, *BY_HAND, taps=("tap0",)), Sort.NOBODY),
    "by hand, in a container": (process(300, *BY_HAND, apart=True), Sort.STRANGER),
    "ours by name, libvirt lost it": (process(300, "qemu", "-name", "guest=i-0000000009"), Sort.LOST),
    "ours by a short name": (process(300, "qemu", "-name", "i-0000000009,debug-threads=on"), Sort.LOST),
    "nearly one of our names": (process(300, "qemu", "-name", "i-00000000090"), Sort.NOBODY),
    "another libvirt's": (process(300, "qemu", "-name", "guest=desktop"), Sort.STRANGER),
    "libvirt's by its control group": (process(300, *BY_HAND, cgroup=SCOPE), Sort.STRANGER),
    "libvirt's probe": (process(300, "qemu", "-pidfile", "/var/lib/libvirt/qemu/qmp-A1/qmp.pid"), Sort.STRANGER),
    "a stranger's by its UUID": (process(300, "qemu", "-uuid", THEIRS.uuid.upper()), Sort.STRANGER),
    "a zombie": (process(300, state="Z"), Sort.NOBODY),
    "a zombie that libvirt is about to reap": (process(100, state="Z"), Sort.KNOWN),
    "a stranger's zombie": (process(200, state="Z"), Sort.STRANGER),
}


@pytest.mark.parametrize("name", CASES)
def test_whose_it_is(name: str) -> None:
    found, expected = CASES[name]
    assert sort_process(found, (OURS, THEIRS)).sort is expected


def test_one_whose_pid_libvirt_does_not_tell_is_known_by_its_name() -> None:
    starting = Running(VM, UUID, None, ours=True)
    assert sort_process(process(300, *OF_OURS), (starting,)).sort is Sort.KNOWN


def test_a_zombie_is_told_with_its_parent() -> None:
    assert "sh (7)" in sort_process(process(300, state="Z"), ()).why


def test_a_name_in_a_control_group_is_unescaped() -> None:
    domain = Running("web-two", "x", None, ours=False)
    assert "web-two" in sort_process(process(300, "qemu", cgroup=SCOPE), (domain,)).why


SECRETS = {
    ("-object", "secret,id=s0,data=hunter2"): ("-object", "secret,id=s0,data=..."),
    ("-object", "secret,id=s0,data=a,,hunter2,format=raw"): ("-object", "secret,id=s0,data=...,format=raw"),
    ("-object", '{"qom-type":"secret","data":"hunter2","id":"s"}'): (
        "-object", '{"qom-type":"secret","data":"...","id":"s"}',
    ),
    ("-object", '{"qom-type":"secret","data":"hunt\\"er2","id":"s"}'): (
        "-object", '{"qom-type":"secret","data":"...","id":"s"}',
    ),
    ("-spice", "port=1,password=hunter2"): ("-spice", "port=1,password=..."),
    ("-drive", "file=https://me:hunter2@host/x.qcow2"): ("-drive", "file=https://...@host/x.qcow2"),
    ("-append", "root=/dev/vda token hunter2"): ("-append", "..."),
    ("-fw_cfg", "name=opt/x,string=hunter2"): ("-fw_cfg", "..."),
    ("--append", "hunter2"): ("--append", "..."),
    ("-m", "64"): ("-m", "64"),
    ("-drive", "file=/v/x.qcow2,if=virtio"): ("-drive", "file=/v/x.qcow2,if=virtio"),
}  # fmt: skip


@pytest.mark.parametrize("given", SECRETS, ids=" ".join)
def test_no_secret_of_the_arguments_is_told(given: tuple[str, ...]) -> None:
    assert without_secrets(given) == SECRETS[given]


def test_arguments_are_bounded() -> None:
    assert len(without_secrets(["x"] * 5000)) == 257
    assert len(without_secrets(["x" * 50_000])[0]) < 1100


def test_no_secret_is_told_where_an_argument_is_cut() -> None:
    for secret in ("https://me:hunter2" + "x" * 50, "data=hunter2" + "x" * 50, '"data":"hunter2' + "x" * 50):
        for length in range(990, 1030):
            [told] = without_secrets(["y" * (length - 1) + "," + secret])
            assert "hunter" not in told, (length, secret)


def test_odd_arguments_are_little_work() -> None:
    begin = time.process_time()
    without_secrets(["key" * 500_000, "=" * 500_000, '"data":"' * 100_000, "//" * 500_000])
    assert time.process_time() - begin < 5  # of its own: others may be busy


def test_only_monitors_are_spoken_to() -> None:
    line = [
        "qemu", "-chardev", "socket,id=mon0,path=/run/a.sock,server=on", "-mon", "chardev=mon0,mode=control",
        "-chardev", "socket,id=serial0,path=/run/b.sock,server=on", "-serial", "chardev:serial0",
        "-qmp", "unix:/run/c.sock,server=on",
    ]  # fmt: skip
    held = ("/run/a.sock", "/run/b.sock", "/run/c.sock", "/var/lib/libvirt/qemu/domain-1-x/monitor.sock")
    assert monitors(process(1, *line, sockets=held)) == (held[0], held[2], held[3])
    assert monitors(process(1, *line)) == ()

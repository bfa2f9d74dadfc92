"""The hook's script and what systemd and network daemons are told, as texts."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvagent.errors import SpecError
from lvagent.render.hook import hook_script
from lvagent.render.unit import networkd_unmanaged, networkmanager_unmanaged, service_unit
from lvagent.spec import names
from tests.golden import golden

SOCKET = "/run/lvagent/hook.sock"
PYTHON = "/usr/bin/python3"
BOOTSTRAP = "import sys; sys.path[:0] = ['/usr/lib/lvagent']; from lvagent.hook import main; main()"
SCRIPT = hook_script(SOCKET, PYTHON, BOOTSTRAP, 10.0)


def test_golden_hook() -> None:
    golden("hook/lvagent.sh", SCRIPT)


def test_golden_unit() -> None:
    golden("hook/lvagent.service", service_unit(["/usr/bin/lvagent", "serve"]))


def test_golden_networkd() -> None:
    golden("hook/lvagent.network", networkd_unmanaged())


def test_golden_networkmanager() -> None:
    golden("hook/networkmanager.conf", networkmanager_unmanaged())


def test_only_programs_in_usr_bin_are_run() -> None:
    code = "\n".join(row for row in SCRIPT.splitlines()[1:] if not row.startswith("#"))
    programs = re.findall(r"(?<![\w'/.:])/[\w./-]+", code.replace(shlex.quote(BOOTSTRAP), "").replace(SOCKET, ""))
    assert {name for name in programs if not name.startswith("/usr/bin/")} == {
        "/start/begin",
        "/proc/uptime",
        "/usr/bin",
    }


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))))
def test_the_bootstrap_is_one_word_of_the_shell(text: str) -> None:
    rows = hook_script(SOCKET, PYTHON, text, 10.0).splitlines()
    row = next(row for row in rows if "/usr/bin/timeout" in row)
    assert shlex.split(row)[-4:] == ["-c", text, "start", "$1"]


@pytest.mark.parametrize(
    ("socket", "python", "bootstrap", "deadline"),
    [
        ("hook.sock", PYTHON, BOOTSTRAP, 10.0),
        (f"/{'a' * 107}", PYTHON, BOOTSTRAP, 10.0),
        ("/run/a\nb", PYTHON, BOOTSTRAP, 10.0),
        (SOCKET, "/opt/python", BOOTSTRAP, 10.0),
        (SOCKET, "python3", BOOTSTRAP, 10.0),
        (SOCKET, PYTHON, "import sys\nmain()", 10.0),
        (SOCKET, PYTHON, BOOTSTRAP, 2.9),
    ],
)
def test_parameters_that_cannot_be_are_refused(socket: str, python: str, bootstrap: str, deadline: float) -> None:
    with pytest.raises(SpecError):
        hook_script(socket, python, bootstrap, deadline)


@pytest.mark.parametrize(
    ("argument", "written"),
    [("a b", '"a b"'), ("100%", '"100%%"'), ("$HOME", '"$$HOME"'), ('a"b\\', '"a\\"b\\\\"'), (";", '";"'), ("", '""')],
)
def test_arguments_in_a_unit_are_quoted(argument: str, written: str) -> None:
    assert f"\nExecStart=/usr/bin/lvagent {written}\n" in service_unit(["/usr/bin/lvagent", argument])


@pytest.mark.parametrize("command", [[], ["lvagent"], ["/usr/bin/lvagent", "a\nExecStart=/bin/evil"]])
def test_commands_that_cannot_be_are_refused(command: list[str]) -> None:
    with pytest.raises(SpecError):
        service_unit(command)


OURS = [
    names.tap("i-0000000001", 0),
    names.tap("i-9999999999", 99),
    names.vxlan(1),
    names.vxlan(names.MAX_VNI),
    names.overlay_bridge(100),
    names.veth_inner("subnet-0a1b2c3d4e"),
    names.veth_outer("subnet-0a1b2c3d4e"),
]
STRANGERS = [
    "eth0",
    "enp1s0",
    "docker0",
    "br-0a1b2c3d4e5f",
    "vnet0",
    "virbr0",
    "veth0a1b2c3",
    "tap0",
    "t1",
    "team0",
    "lo",
]


def _networkd_patterns() -> list[str]:
    return (
        next(row for row in networkd_unmanaged().splitlines() if row.startswith("Name=")).removeprefix("Name=").split()
    )


def _networkmanager_patterns() -> list[str]:
    row = next(row for row in networkmanager_unmanaged().splitlines() if row.startswith("unmanaged-devices"))
    specs = row.removeprefix("unmanaged-devices+=").split(";")
    assert all(spec.startswith("interface-name:") for spec in specs)
    return [spec.removeprefix("interface-name:") for spec in specs]


@pytest.mark.parametrize("patterns", [_networkd_patterns(), _networkmanager_patterns()], ids=["networkd", "NM"])
def test_network_daemons_leave_our_links_alone_and_no_others(patterns: list[str]) -> None:
    assert [name for name in OURS if not any(fnmatchcase(name, one) for one in patterns)] == []
    assert [name for name in STRANGERS if any(fnmatchcase(name, one) for one in patterns)] == []


def test_networkmanager_gets_no_ranges() -> None:
    assert not any("[" in pattern for pattern in _networkmanager_patterns())

"""``lvagent vpc set``: what is said is changed, and all else stays."""

from __future__ import annotations

import json

from tests.unit.cli.shell import Shell

A = "vpc-aaaaaaaaaa"


def settings(shell: Shell) -> dict[str, object]:
    found: dict[str, object] = json.loads(shell.run("vpc", "show", A, "-o", "json").stdout)["settings"]
    return found


def test_what_is_said_is_changed_and_all_else_stays(shell: Shell) -> None:
    shown = shell.run("vpc", "set", A, "--uplink", "nat", "--forwarder", "192.0.2.53", "--forwarder", "192.0.2.54")
    assert "uplink     nat\ntransit    198.19.0.3 by 198.19.0.2\n" in shown.stdout
    shell.run("vpc", "set", A, "--mtu", "1400", "--metadata", "off", "--domain", "shop.internal")
    assert settings(shell) == {
        "uplink": "nat",
        "forwarders": ["192.0.2.53", "192.0.2.54"],
        "domain": "shop.internal",
        "mtu": 1400,
        "metadata": "off",
    }
    shell.run("vpc", "set", A, "--uplink", "default", "--no-forwarders", "--mtu", "default")
    assert settings(shell) == {
        "uplink": None,
        "forwarders": [],
        "domain": "shop.internal",
        "mtu": None,
        "metadata": "off",
    }
    shell.run("vpc", "set", A, "--reset", "--domain", "a.internal")
    assert {name for name, value in settings(shell).items() if value is not None} == {"domain"}


def test_what_cannot_be_is_told(shell: Shell) -> None:
    assert shell.run("vpc", "set", A, "--uplink", "bridge").exit_code == 2
    assert shell.run("vpc", "set", A, "--mtu", "wide").exit_code == 2
    done = shell.run("vpc", "set", A, "--forwarder", "nobody")
    assert done.exit_code == 1
    assert "at: forwarders[0]" in done.stderr
    assert shell.run("vpc", "show", A).exit_code == 3

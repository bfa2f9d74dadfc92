"""Forwarding in root: switched on while an uplink needs it, and put back as it was when none does.

The switch of all links is also that of each: one that forwarded though the others did not is remembered as well.

What it was is written down before it is changed, so that an agent that comes after a crash puts it back too; a boot
makes that void, for sysctls do not outlive it. Switching IPv6 forwarding on makes Linux ignore router advertisements
where ``accept_ra`` is 1 (ip-sysctl.rst); a host that has its own way out from them would lose it, so such links get 2.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from lvagent.errors import HostError
from lvagent.host import files, host
from lvagent.host.netspace import translated
from lvagent.host.sysctl import ROOT

log = logging.getLogger(__name__)

FILE = "forwarding.json"
V4, V6 = "ipv4/ip_forward", "ipv6/conf/all/forwarding"
_BESIDE = {V4: ("ipv4/conf/all/accept_redirects",), V6: ()}
"""What changes with it, and is put back after it."""
_SWITCHES = {4: V4, 6: V6}


class Forwarding:
    """The sysctls of the namespace that the calling thread is in.

    :param state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._file = state / FILE

    def holds(self, *, ipv6: bool) -> bool:
        """Whether forwarding is on."""
        return all(_read(name) == "1" for name in ((V4, V6) if ipv6 else (V4,)))

    def remembered(self) -> dict[str, str]:
        """What was there before; nothing if nothing was changed since the host's last boot."""
        try:
            found = json.loads(self._file.read_text())
            return dict(found["was"]) if found["boot"] == host.boot_id() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def for_us_alone(self, *, ipv6: bool) -> tuple[int, ...]:
        """The IP versions that are forwarded, or about to be, for uplinks alone: no link did before."""
        was = self.remembered()
        switches = {version: name for version, name in _SWITCHES.items() if version == 4 or ipv6}
        before = {version: was if name in was else _now(name) for version, name in switches.items()}
        return tuple(version for version, name in switches.items() if _all_off(before[version], name))

    def ensure(self, *, ipv6: bool) -> None:
        """Switch it on.

        :raise HostError: it could not be remembered, or cannot be switched.
        """
        with translated("forwarding", "switch on"):
            for name in (V4, V6) if ipv6 else (V4,):
                if _read(name) != "1":
                    self._switch_on(name)

    def _switch_on(self, name: str) -> None:
        was = self.remembered()
        now = _now(name) | {one: _read(one) for one in _BESIDE[name]}
        heard = _hearing() if name == V6 else []
        now |= dict.fromkeys(heard, "1")
        self._remember({**now, **was})  # the first time counts: later it was somebody else who switched it off
        for one in heard:
            _write(one, "2")
        _write(name, "1")
        log.warning("forwarding was off in root, and is on now for uplinks of VPCs: net/%s", name)

    def _remember(self, was: dict[str, str]) -> None:
        files.folder(self._file.parent, 0o700)
        document = {"boot": host.boot_id(), "was": was}
        files.write(self._file, json.dumps(document, indent=2) + "\n", mode=0o600)

    def restore(self, user: str = "") -> None:
        """Put back what was there, and forget it.

        :param user: who else needs forwarding by now; then it stays on, and is his. Empty: nobody.
        """
        was = self.remembered()
        if user and was:
            log.warning("forwarding stays on in root: it was off before there were uplinks, and %s needs it now", user)
            was = {}
        with translated("forwarding", "switch off"):
            for name in sorted(was, key=lambda one: one not in (V4, V6)):  # these put others to their defaults
                now = _read(name)
                if now is not None and now != was[name]:
                    _write(name, was[name])
            files.remove(self._file)
        if was:
            log.info("forwarding in root is as it was: %s", ", ".join(f"{name}={was[name]}" for name in sorted(was)))


def _now(name: str) -> dict[str, str]:
    """A switch of all links, and those of single links that forward though it is off; uplinks are nobody's before."""
    family = name.partition("/")[0]
    if _read(name) == "1":
        return {name: "1"}
    links = sorted(path.parent.name for path in (ROOT / family / "conf").glob("*/forwarding"))
    names = [f"{family}/conf/{link}/forwarding" for link in links if link != "all" and not link.startswith("ux-")]
    return {name: _read(name), **{one: "1" for one in names if _read(one) == "1"}}


def _all_off(was: Mapping[str, str], name: str) -> bool:
    """Whether a switch was off, and that of each link too. IPv6 forwards by no link while the one of all is off."""
    return was[name] != "1" and (name == V6 or not any(one.startswith("ipv4/conf/") and _is_link(one) for one in was))


def _is_link(name: str) -> bool:
    return name.endswith("/forwarding") and "/default/" not in name


def _hearing() -> list[str]:
    """The links that take router advertisements only as long as this host forwards nothing."""
    found = sorted(path.parent.name for path in (ROOT / "ipv6/conf").glob("*/accept_ra"))
    names = [f"ipv6/conf/{link}/accept_ra" for link in found]
    return [name for name in names if _read(name) == "1"]


def _read(name: str) -> str:
    try:
        return (ROOT / name).read_text().strip()
    except FileNotFoundError:
        return ""


def _write(name: str, value: str) -> None:
    if not value:
        return
    try:
        (ROOT / name).write_text(value)
    except FileNotFoundError:
        return  # the link went
    except OSError as error:
        hint = "something keeps sysctls from being written: a container, a security module"
        raise HostError(f"net/{name}", "set", error.strerror or str(error), hint=hint) from error

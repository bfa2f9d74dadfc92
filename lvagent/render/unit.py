"""What other parts of the host are told: systemd how to run the agent, network daemons to keep off its links."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lvagent.errors import SpecError
from lvagent.render import render

_ID = "[0-9]" * 10
_NAME = "[0-9a-z]" * 10

LINKS = ("lvx[0-9]*", "lvb[0-9]*", f"vo-{_NAME}", f"vi-{_NAME}", f"ux-{_NAME}", f"ui-{_NAME}", f"t{_ID}-[0-9]*")
"""Shell patterns of the links of ours that may stand in the root namespace, if only while they are made: see
``spec.names``. A subnet's bridge (``br-``) is made within its namespace; in root that prefix is Docker's."""

CAPABILITIES: Mapping[str, str] = MappingProxyType(
    {
        "chown": "volumes are qemu's, the API's socket is its group's, a lease file is dnsmasq's",
        "dac_override": "volumes of qemu's user are judged, folders of other users written to",
        "fowner": "an image that is qemu's gets a second name",
        "kill": "dnsmasq, the metadata process and strays, which run as others, are ended",
        "net_admin": "links, addresses, filters; dnsmasq answers clients that have no address yet",
        "net_bind_service": "metadata listens on port 80, dnsmasq on 53, 67 and 547",
        "net_raw": "dnsmasq sends router advertisements; floating addresses are asked about and announced",
        "setgid": "dnsmasq, the metadata process and qemu-img run as others",
        "setpcap": "the metadata process empties its bounding set",
        "setuid": "as setgid",
        "sys_admin": "namespaces are made, named and entered",
        "sys_chroot": "the metadata process sees no file",
        "sys_ptrace": "program, namespace and open files of a process of another user (/proc/PID/exe, ns, fd)",
    }
)
"""What the agent keeps, and what for."""

STARTING = ("sys_module",)
"""What it needs at its start alone: to load br_netfilter."""

_RANGE = re.compile(r"\[[^]]+\]")
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+\Z")


def service_unit(command: Sequence[str]) -> str:
    """The systemd unit lvagent.service.

    :param command: the agent's argument list; the program by its absolute path.
    :raise SpecError: no such list, or an argument with a control character.
    """
    if not command or not command[0].startswith("/"):
        raise SpecError("service.command", "the program has no absolute path", "such as /usr/bin/lvagent")
    try:
        return render(
            "lvagent.service.j2",
            command=" ".join(_argument(text) for text in command),
            capabilities=[f"CAP_{name.upper()}" for name in sorted((*CAPABILITIES, *STARTING))],
        )
    except ValueError as error:
        raise SpecError("service.command", str(error)) from None


def _argument(text: str) -> str:
    """An argument in a unit's command line (systemd.service(5), "Command lines"): quoted, without specifiers."""
    if _PLAIN.match(text):
        return text
    for special, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(special, written)
    return f'"{text}"'


def networkd_unmanaged() -> str:
    """A .network file by which systemd-networkd leaves our links alone."""
    return render("networkd.j2", links=LINKS)


def networkmanager_unmanaged() -> str:
    """A file for NetworkManager's conf.d by which it leaves our links alone; adds to what others say there.

    NetworkManager knows ``*`` and ``?`` and no ranges (NetworkManager.conf(5), "Device List Format").
    """
    return render("networkmanager.j2", links=tuple(_RANGE.sub("?", pattern) for pattern in LINKS))

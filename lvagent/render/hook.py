"""The libvirt hook: a dash script that asks the agent, and works alone when there is none.

It runs within libvirtd's start of a domain, for every domain and operation of the host, so it leaves at once, without a
fork, unless it is about the start of a domain of ours. libvirt has no time limit for hooks and blocks other calls
meanwhile: the script ends within its deadline whatever the agent does.
"""

from __future__ import annotations

import shlex

from lvagent.errors import SpecError
from lvagent.render import render

LONGEST_SOCKET = 107
"""Bytes of a unix socket's path (unix(7): sun_path without its final NUL)."""

SHORTEST_DEADLINE = 3.0
"""Seconds. The clock of the script has whole seconds, of which it gives two away."""

ASKING = 0.6
"""The part of the deadline for which it waits for the agent."""


def hook_script(socket: str, python: str, bootstrap: str, deadline: float) -> str:
    """The text of /etc/libvirt/hooks/qemu.d/lvagent.

    :param socket: absolute path of the unix socket on which the agent serves hooks.
    :param python: the interpreter for working alone; in /usr/bin, for AppArmor lets a hook run nothing else.
    :param bootstrap: Python code on one line; it is run with the arguments ``start <vm>``, the XML on standard input.
    :param deadline: seconds within which the script ends, at least ``SHORTEST_DEADLINE``; a fraction is cut off.
    :raise SpecError: a parameter that cannot be.
    """
    if not socket.startswith("/") or len(socket.encode()) > LONGEST_SOCKET:
        raise SpecError("hook.socket", f"{socket!r} cannot be a unix socket", "an absolute path of 107 bytes at most")
    if not python.startswith("/usr/bin/"):
        raise SpecError("hook.python", f"{python!r} is not in /usr/bin", "libvirtd's AppArmor profile runs no other")
    if deadline < SHORTEST_DEADLINE:
        raise SpecError("hook.deadline", f"{deadline} s are too short", f"at least {SHORTEST_DEADLINE} s")
    try:
        return render(
            "libvirt-hook.sh.j2",
            ask=f"{deadline * ASKING:.1f}",
            bootstrap=shlex.quote(bootstrap),
            deadline=int(deadline),
            python=shlex.quote(python),
            socket=shlex.quote(socket),
        )
    except ValueError as error:
        raise SpecError("hook", str(error), "each parameter on one line") from None

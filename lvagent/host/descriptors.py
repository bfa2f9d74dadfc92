"""Whether descriptors are left: some libraries end the process that has none."""

from __future__ import annotations

import os

from lvagent.errors import Unavailable


def spare(count: int) -> None:
    """See that so many more descriptors could be opened.

    :raise Unavailable: they could not (RLIMIT_NOFILE, or the whole host has none left).
    """
    made: list[int] = []
    try:
        for _ in range(count):
            made.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        hint = f"{error.strerror}: raise LimitNOFILE of the agent, or see what holds so many"
        raise Unavailable(f"{count} file descriptors", hint=hint) from error
    finally:
        for one in made:
            os.close(one)

"""The one place that starts commands.

Argument lists only, a time limit on everything, stderr kept for the error. Every call is logged as a line that can be
pasted into a shell.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from lvagent.errors import CommandError

log = logging.getLogger(__name__)

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    argv: Sequence[str],
    *,
    timeout: float = 30,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run a command to its end, in the namespaces of the calling thread.

    :param timeout: seconds, after which it is killed.
    :param stdin: text for its standard input; None: empty.
    :param env: variables over a minimal environment (PATH, LC_ALL=C).
    :param user: uid to run as, with ``group`` as its only group; None: as the agent.
    :param pass_fds: descriptors that it inherits, under the same numbers.
    :return: its standard output.
    :raise CommandError: it is not there, ended with another code than 0, or not in time.
    """
    log.debug("run %s", shlex.join(argv))
    try:
        done = subprocess.run(
            list(argv),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={"PATH": PATH, "LC_ALL": "C", **(env or {})},
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            pass_fds=pass_fds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(argv, None, _text(error.stderr)) from error
    except FileNotFoundError as error:
        raise CommandError(argv, 127, f"{argv[0]}: command not found", hint="is its package installed?") from error
    except OSError as error:
        raise CommandError(argv, 126, os.strerror(error.errno or 0)) from error
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr)
    return done.stdout


def _text(raw: bytes | str | None) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else (raw or "")

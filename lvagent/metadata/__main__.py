"""``python -m lvagent.metadata``: started by the agent as root, goes into the background, becomes a nobody, and serves.

The agent waits for the command to end: with 0 the service stands, else stderr says why not. All code is imported before
the privileges go, because the folder it lies in may be closed to the user it becomes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from lvagent.metadata.control import Control
from lvagent.metadata.journal import Journal
from lvagent.metadata.limits import Limits
from lvagent.metadata.privileges import give_up, leave_pids
from lvagent.metadata.service import Service

log = logging.getLogger("lvagent.metadata")


def main(argv: Sequence[str]) -> int:
    """Start the service, and wait until it serves or fails.

    :return: exit code of the waiting parent; the service itself returns when it is told to end.
    """
    options = _options(argv)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os.setsid()
        return _apart(options, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        word = pipe.read().decode(errors="replace")
    if word != "serving":
        print(word or "it ended before it served", file=sys.stderr)  # noqa: T201 - the agent reads it
    return 0 if word == "serving" else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lvagent.metadata")
    parser.add_argument("--control-fd", type=int, required=True, help="the listening unix socket of the agent")
    parser.add_argument("--log-fd", type=int, required=True, help="the log, open for appending")
    parser.add_argument("--user", required=True, help="whom to become")
    parser.add_argument("--hops", type=int, required=True, help="how far an answer with a token goes")
    parser.add_argument("--root", required=True, help="an empty folder")
    parser.add_argument("--name", help="told apart by this from another; not used")
    return parser.parse_args(argv)


def _apart(options: argparse.Namespace, parent: int) -> int:
    try:
        leave_pids()
    except OSError as error:
        os.write(parent, f"cannot have pids of its own: {error}".encode())
        return 1
    if os.fork() == 0:
        return _daemon(options, parent)
    os._exit(0)


def _daemon(options: argparse.Namespace, parent: int) -> int:
    listener = socket.socket(fileno=options.control_fd)
    logging.basicConfig(level=logging.INFO, handlers=[Journal(options.log_fd)])
    pid = int(os.readlink("/proc/self"))  # as others see it; its own namespace calls it 1
    try:
        _detach_streams()
        give_up(options.user, options.root, {0, 1, 2, options.control_fd, options.log_fd, parent})
        os.write(parent, b"serving")
    except (OSError, KeyError) as error:
        os.write(parent, f"cannot become {options.user}: {error}".encode())
        return 1
    os.close(parent)
    asyncio.run(_serve(listener, pid, options.hops))
    return 0


def _detach_streams() -> None:
    """Standard streams to nowhere: the agent reads them until their last holder closes them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


async def _serve(listener: socket.socket, pid: int, hops: int) -> None:
    service = Service(Limits(hops=hops))
    serving = asyncio.create_task(Control(listener, service, pid).serve())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    log.info("serving as uid %d", os.getuid())
    try:
        await serving
    except asyncio.CancelledError:
        log.info("ending")
        for share in service.shares():
            await share.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

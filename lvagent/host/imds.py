"""The agent's side of the metadata service: it is started, told who the guests are, and handed its sockets.

The service is one process for all VPCs. It belongs to no agent: it outlives this one, and the next finds it by its
control socket in the run folder, where only root can put one. It has no state but in memory, so a new one is told all
again. Which namespace a listener stands in is told by the namespace's inode; the listener itself holds the namespace,
so no other can get that number meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import lvagent
from lvagent.config import Settings
from lvagent.errors import HostError, Unavailable, Vanished
from lvagent.host import daemons, files, netns
from lvagent.host.run import run
from lvagent.metadata import wire
from lvagent.plan.resources import Guest, Metadata
from lvagent.spec import names

PORT = 80
BACKLOG = 512
PATIENCE = 5.0
"""Seconds for one answer of the service. It answers in less than a millisecond."""

IP_FREEBIND, IPV6_FREEBIND = 15, 78
"""linux/in.h, linux/in6.h: bind before the address is there."""

MODULE = "lvagent.metadata"


def digest(wanted: Metadata) -> str:
    """What tells two shares of the service apart; ``MetadataService.observe`` answers in the same terms."""
    return wire.digest(_marks(wanted))


def _marks(wanted: Metadata) -> dict[str, str]:
    known: dict[int, str] = {}
    for _, guest in wanted.guests:
        if id(guest) not in known:
            known[id(guest)] = wire.fingerprint(guest)
    return {address: known[id(guest)] for address, guest in wanted.guests}


class MetadataService:
    """The metadata service of this host. Every method may be called by many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = Path(settings.paths.run)
        self._socket = self._run / "metadata.sock"
        self._guard = threading.Lock()

    def digest(self, wanted: Metadata) -> str:
        """What tells two shares apart, as ``observe`` answers."""
        return digest(wanted)

    def observe(self, vpc: str) -> str | None:
        """The digest of what is served in the VPC's namespace, the one that bears its name now.

        :return: None when nothing is, or the service is not there or of another revision.
        :raise HostError: the service is there and does not answer.
        """
        inode = netns.inode(self._namespace(vpc))
        with self._errors(MODULE, "ask"):
            found = self._ask({"op": "list", "vpc": vpc})
            if not self._is_current(found):
                return None
            for share in wire.objects(found, "vpcs"):
                if share.get("inode") == inode and share.get("attached") is True:
                    return wire.text(share, "digest")
        return None

    def vpcs(self) -> dict[str, int]:
        """The VPCs that are served, and the inode of the namespace that each is served in.

        :raise HostError: the service is there and does not answer.
        """
        with self._errors(MODULE, "ask"):
            shares = wire.objects(self._ask({"op": "list"}), "vpcs")
            return {wire.text(share, "vpc"): wire.number(share, "inode") for share in shares}

    def asked(self, vpc: str) -> dict[str, tuple[int, int]]:
        """How many requests each VM made of what is served in the VPC, and when the last (Unix time).

        Counted since the service serves the VPC; nothing is told by one of another revision.

        :raise HostError: the service is there and does not answer.
        """
        inode = netns.inode(self._namespace(vpc))
        if inode is None:
            return {}
        with self._errors(MODULE, "ask"):
            if not self._is_current(self._ask({"op": "ping"})):
                return {}
            found = wire.objects(self._ask({"op": "asked", "vpc": vpc, "inode": inode}), "asked")
            return {wire.text(one, "vm"): (wire.number(one, "requests"), wire.number(one, "last")) for one in found}

    def ensure(self, wanted: Metadata) -> None:
        """Serve these guests in the VPC's namespace, and no other; start the service if it is not there.

        :raise HostError: no namespace, no such user, or the service cannot start or does not answer.
        """
        with self._guard, self._errors(wanted.vpc, "serve metadata in"):
            try:
                self._converge(wanted)
            except ConnectionError:  # it ended in the middle; a new one is told all again
                self._converge(wanted)

    def ready(self) -> None:
        """Start the service if it is not there, so that the first VPC need not wait for it.

        :raise HostError: no such user, or it cannot start or does not answer.
        """
        with self._guard, self._errors(MODULE, "start"), self._talk(self._connect() or self._start()) as control:
            control.ask({"op": "ping"})

    def remove(self, vpc: str) -> None:
        """Make sure that nothing is served in the VPC, and that no socket of the service holds a namespace of it.

        :raise HostError: the service is there and does not answer.
        """
        with self._guard, self._errors(vpc, "end metadata in"):
            self._ask({"op": "detach", "vpc": vpc})

    def stop(self) -> None:
        """End the service. It is told by its own answer which process it is, and by its arguments that it is ours.

        :raise HostError: it survives, or does not answer.
        """
        with self._guard, self._errors(MODULE, "end"):
            service = self._ask({"op": "ping"})
            if service:
                self._end(wire.number(service, "pid"))
            files.remove(self._socket)

    def _ask(self, message: wire.Json) -> wire.Json:
        """The answer of the service; an empty one when it is not there, or ends at this moment."""
        try:
            connected = self._connect()
            if connected is None:
                return {}
            with self._talk(connected) as control:
                return control.ask(message)
        except ConnectionError:
            return {}

    def _is_current(self, answer: wire.Json) -> bool:
        """Whether a service that answers so is as this agent would start it."""
        return wire.kind(self._settings.metadata.hops).items() <= answer.items()

    def _namespace(self, vpc: str) -> str:
        return f"{self._settings.paths.netns}/{vpc}"

    def _converge(self, wanted: Metadata) -> None:
        with self._talk(self._connect() or self._start()) as control:
            service = control.ask({"op": "ping"})
            if self._is_current(service):
                self._subtract(control, wanted)
                return
        self._end(wire.number(service, "pid"))
        with self._talk(self._start()) as control:
            self._subtract(control, wanted)

    def _subtract(self, control: Control, wanted: Metadata) -> None:
        """Send what differs from what is served."""
        inode = netns.inode(self._namespace(wanted.vpc))
        if inode is None:
            raise Vanished(wanted.vpc, "serve metadata in", "its namespace is not there")
        there = control.ask({"op": "table", "vpc": wanted.vpc, "inode": inode})
        table, marks = wire.texts(there, "table"), _marks(wanted)
        put: list[tuple[str, Guest]] = [(at, guest) for at, guest in wanted.guests if table.get(at) != marks[at]]
        for line in wire.changes(wanted.vpc, inode, put, table.keys() - marks.keys()):
            control.send(line)
        if there.get("attached") is not True:
            self._attach(control, wanted.vpc, inode)

    def _attach(self, control: Control, vpc: str, inode: int) -> None:
        listeners = netns.inside(self._namespace(vpc), _listen)
        try:
            if netns.inode(self._namespace(vpc)) != inode:
                raise Vanished(vpc, "serve metadata in", "its namespace was replaced meanwhile", hint="try again")
            message = wire.encode({"op": "attach", "vpc": vpc, "inode": inode})
            control.send(message, [listener.fileno() for listener in listeners])
        finally:
            for listener in listeners:
                listener.close()

    def _connect(self) -> socket.socket | None:
        """A connection to the service; None when there is none."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(self._socket))
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            return None
        except BaseException:
            client.close()
            raise
        return client

    @contextlib.contextmanager
    def _talk(self, client: socket.socket) -> Iterator[Control]:
        with client:
            yield Control(client)

    @contextlib.contextmanager
    def _errors(self, resource: str, action: str) -> Iterator[None]:
        """Foreign exceptions become errors of ours."""
        try:
            yield
        except TimeoutError as error:
            raise Unavailable("the metadata service", hint=f"it does not answer; see {self._log}") from error
        except wire.Malformed as error:
            raise HostError(resource, action, f"the metadata service answers: {error}") from error
        except netns.NameGone as error:
            raise Vanished(resource, action, error.strerror or str(error)) from error
        except OSError as error:
            raise HostError(resource, action, error.strerror or str(error), hint=_hint(error)) from error

    def _end(self, pid: int) -> None:
        """End this process if it is a service of ours, run by whichever Python."""
        try:
            program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
        except OSError:
            return
        if program.startswith("python"):
            daemons.end(pid, daemons.Identity(program, f"--name={self._socket}", nested=True))

    def _start(self) -> socket.socket:
        """Start the service, unless another has just done so."""
        user = self._settings.metadata.user
        try:
            pwd.getpwnam(user)
        except KeyError:
            hint = f"useradd --system --no-create-home --shell /usr/sbin/nologin {user}, or set metadata.user"
            raise HostError(MODULE, "start", f"there is no user {user}", hint=hint) from None
        files.folder(self._run)
        with _flock(self._run / "metadata.lock"):
            connected = self._connect()
            if connected is None:
                self._end_lost()
                self._spawn(user)
                connected = self._connect()
        if connected is None:
            raise HostError(MODULE, "start", "it ended at once", hint=f"see {self._log}")
        return connected

    def _end_lost(self) -> None:
        """One whose socket was deleted cannot be adopted, and holds the listeners that the next one needs."""
        for pid in daemons.pids():
            self._end(pid)

    @property
    def _log(self) -> Path:
        return Path(self._settings.paths.state) / "metadata.log"

    def _spawn(self, user: str) -> None:
        empty = self._run / "empty"
        files.folder(empty, 0o500)
        files.folder(self._log.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open(self._log, flags, 0o600)
        try:
            with self._bind() as listener:
                self._execute(
                    ["--user", user, f"--root={empty}", f"--hops={self._settings.metadata.hops}"],
                    listener.fileno(),
                    log,
                )
        finally:
            os.close(log)

    def _bind(self) -> socket.socket:
        files.remove(self._socket)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # a socket is made with the mode of its descriptor (unix(7))
            listener.bind(str(self._socket))
            listener.listen(64)
        except BaseException:
            listener.close()
            raise
        return listener

    def _execute(self, options: list[str], control: int, log: int) -> None:
        """Run the command that goes into the background; outside the agent's cgroup where systemd rules."""
        argv = [sys.executable, "-P", "-m", MODULE, f"--control-fd={control}", f"--log-fd={log}", *options]
        scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--slice={daemons.SLICE}", "--"]
        command = [*(scope if os.path.isdir(daemons.SYSTEMD) else []), *argv, f"--name={self._socket}"]
        package = str(Path(lvagent.__file__).resolve().parent.parent)
        run(command, timeout=30, env={"PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"}, pass_fds=(control, log))


class Control:
    """A conversation with the service: a line, then its answer."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def ask(self, message: wire.Json) -> wire.Json:
        """Send a message; returns the answer.

        :raise OSError: the service is gone, or does not answer in time.
        :raise Malformed: it refuses.
        """
        return self.send(wire.encode(message))

    def send(self, line: bytes, descriptors: list[int] | None = None) -> wire.Json:
        """Send a line, with descriptors on its first byte; returns the answer."""
        sent = socket.send_fds(self._client, [line], descriptors) if descriptors else 0
        self._client.sendall(line[sent:])
        answer = b""
        while not answer.endswith(b"\n"):
            more = self._client.recv(1 << 18)
            if not more:
                raise ConnectionResetError(errno.ECONNRESET, "the metadata service ended")
            answer += more
        found = wire.decode(answer)
        if "error" in found:
            raise wire.Malformed(wire.text(found, "error"))
        return found


def _hint(error: OSError) -> str:
    return "something else listens on port 80 in the namespace" if error.errno == errno.EADDRINUSE else ""


def _listen() -> tuple[socket.socket, ...]:
    """The two listening sockets, in the namespace of the calling thread."""
    with contextlib.ExitStack() as stack:
        found = []
        for family, address in ((socket.AF_INET, names.METADATA_V4), (socket.AF_INET6, names.METADATA_V6)):
            made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            else:
                made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            made.bind((address, PORT))
            made.listen(BACKLOG)
            found.append(made)
        stack.pop_all()
    return tuple(found)


@contextlib.contextmanager
def _flock(path: Path) -> Iterator[None]:
    """Hold a lock on a file, against other threads and processes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""What all commands share: the options before the command's name, and what is made of them when it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from lvagent.commands.failure import Failure

if TYPE_CHECKING:
    from lvagent.commands.client import Client, Lines, Transport
    from lvagent.commands.remote import Remote
    from lvagent.config import Settings

F = TypeVar("F", bound=Callable[..., object])

OUTPUTS = ("table", "json")


def _execute(argv: Sequence[str]) -> NoReturn:
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        raise Failure(f"cannot run {argv[0]}: {error.strerror}", hint="is its package installed?") from error


@dataclass
class Session:
    """One run of the command line. ``execute`` becomes another program; ``transport``, ``stream`` None: the agent's
    socket.

    ``url``: of an agent to be reached over TCP, with ``token_file``, ``cacert`` and ``cert``; empty: over the socket.
    """

    socket: str | None = None
    url: str = ""
    token_file: str = ""
    cacert: str = ""
    cert: str = ""
    config: Path | None = None
    output: str = "table"
    transport: Transport | None = None
    stream: Lines | None = None
    execute: Callable[[Sequence[str]], NoReturn] = _execute
    root: bool = os.geteuid() == 0

    @property
    def json(self) -> bool:
        """Whether to print JSON."""
        return self.output == "json"

    def settings(self) -> Settings:
        """The settings.

        :raise SpecError: they cannot be read, or one is wrong.
        """
        from lvagent.config import load

        return load(self.config)

    def client(self) -> Client:
        """The agent."""
        from lvagent.commands.client import Client, over_socket

        if self.transport is None and self.url:
            return Client(self._remote())
        return Client(self.transport or over_socket(self.socket or self.settings().api_socket))

    def lines(self) -> Lines:
        """The agent, for an answer that comes line by line."""
        from lvagent.commands.client import lines_over_socket
        from lvagent.commands.remote import lines_over_tcp

        if self.stream is None and self.url:
            return lines_over_tcp(self._named())
        return self.stream or lines_over_socket(self.socket or self.settings().api_socket)

    def _remote(self) -> Transport:
        from lvagent.commands.remote import over_tcp

        return over_tcp(self._named())

    def _named(self) -> Remote:
        from lvagent.commands.remote import Remote, token_of

        token = token_of(self.token_file, os.environ.get("LVAGENT_TOKEN", ""))
        return Remote(self.url, token, self.cacert, self.cert)

    def need_local(self) -> None:
        """See that the agent is the one of this host, for what is done here and not by it.

        :raise Failure: it is reached by a URL.
        """
        if self.url:
            raise Failure("this works on the agent's own host only", hint="leave out --url (and LVAGENT_URL) there")


pass_session = click.make_pass_decorator(Session, ensure=True)


def output_option(command: F) -> F:
    """Let ``-o`` stand after the command's name too."""

    def keep(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value:
            ctx.ensure_object(Session).output = value

    choice = click.Choice(OUTPUTS)
    option = click.option("-o", "--output", type=choice, expose_value=False, callback=keep, help="How to print.")
    return option(command)

"""Running commands in a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from click.testing import CliRunner, Result

from lvagent.api.app import create_app
from lvagent.cli import root
from lvagent.commands.client import Reply
from lvagent.commands.failure import of_problem
from lvagent.commands.session import Session
from lvagent.config import Settings
from tests.unit.api.fake_agent import FakeAgent


class Became(Exception):
    """The command became another program."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__(" ".join(argv))
        self.argv = list(argv)


class Shell:
    """Runs commands against an agent in memory; the API between is the real one."""

    def __init__(self, folder: Path) -> None:
        self.agent = FakeAgent()
        self.app = create_app(self.agent, Settings())
        self._streamed = b""
        self.state = folder / "state"
        self.run_folder = folder / "run"
        self.run_folder.mkdir()
        self.config = folder / "lvagent.toml"
        self.config.write_text(f'[paths]\nrun = "{self.run_folder}"\nnetns = "/run/ns"\nstate = "{self.state}"\n')

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        answer = self.app.test_client().open(path, method=method, data=body, headers=dict(headers))
        return Reply(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.data)

    def answers(self, raw: bytes) -> None:
        """Let streams have these bytes."""
        self._streamed = raw

    def _lines(self, target: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        reply = self._send("GET", target, None, headers)
        if reply.status >= 400:
            raise of_problem(reply.json)
        yield from (self._streamed or reply.body).splitlines(keepends=True)

    def run(self, *args: str, stdin: bytes = b"", is_root: bool = True, local: bool = True, **env: str) -> Result:
        def execute(argv: Sequence[str]) -> NoReturn:
            raise Became(argv)

        session = Session(
            transport=self._send if local else None,
            stream=self._lines if local else None,
            execute=execute,
            root=is_root,
        )
        return CliRunner(env=env).invoke(root, ["--config", str(self.config), *args], input=stdin, obj=session)

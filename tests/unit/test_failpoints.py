"""Failpoints: which there are, who can arm them, and what they do."""

from __future__ import annotations

import ast
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent import failpoints
from lvagent.errors import HostError, SpecError
from lvagent.failpoints import HANGING, POINTS, arm, point

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm("", Path())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as it must be, that arms nothing."""
    path = tmp_path / "failpoints"
    path.touch(mode=0o600)
    return path


def armed(file: Path, *lines: str) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))
    arm(str(file), file.parent)


def named_in_code() -> Counter[str]:
    """How often each point stands in the code."""
    calls = (
        node
        for path in (TREE / "lvagent").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "point"
    )
    return Counter(call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant))


def test_every_point_stands_once_in_the_code() -> None:
    assert named_in_code() == Counter(dict.fromkeys(POINTS, 1))


def test_without_a_file_nothing_happens(file: Path) -> None:
    file.write_text("create.defined raise\n")
    point("create.defined")
    assert file.read_text() == "create.defined raise\n"


def test_a_point_fails_once(file: Path) -> None:
    armed(file, "# a game", "create.defined raise", "delete.marked raise")
    point("create.secret")
    with pytest.raises(HostError, match=r"create\.defined"):
        point("create.defined")
    point("create.defined")
    assert file.read_text() == "delete.marked raise\n"


def test_one_that_hangs_goes_on_when_its_line_goes(file: Path) -> None:
    armed(file, "create.defined hang")
    hung = threading.Thread(target=point, args=("create.defined",))
    hung.start()
    deadline = time.monotonic() + 30
    while file.read_text() != f"create.defined {HANGING}\n":
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert hung.is_alive()
    file.write_text("")
    hung.join(30)
    assert not hung.is_alive()


def test_one_that_hangs_goes_on_in_the_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "HANG_SECONDS", 0.05)
    armed(file, "create.defined hang")
    point("create.defined")
    assert file.read_text() == f"create.defined {HANGING}\n"


@pytest.mark.parametrize("line", ["create.nowhere raise", "create.defined explode", "create.defined"])
def test_a_line_that_is_not_understood_stops_the_start(file: Path, line: str) -> None:
    with pytest.raises(SpecError, match="LVAGENT_FAILPOINTS"):
        armed(file, line)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o700])
def test_a_file_that_others_might_have_written_arms_nothing(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(SpecError, match="0600"):
        armed(file, "create.defined raise")


def test_a_file_that_was_opened_to_others_later_arms_nothing(file: Path) -> None:
    armed(file, "create.defined raise")
    file.chmod(0o666)
    point("create.defined")
    assert file.read_text() == "create.defined raise\n"


def test_a_file_elsewhere_a_link_and_none_arm_nothing(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    for named, folder in ((file, tmp_path / "run"), (link, tmp_path), (tmp_path / "none", tmp_path)):
        with pytest.raises(SpecError):
            arm(str(named), folder)

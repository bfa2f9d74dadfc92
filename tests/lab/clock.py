"""A wall clock that a test sets forward and back while programs run by it.

The kernel has one time of day for all namespaces, and nobody may set that of the machine. libfaketime was tried: it
takes the sleeps and timeouts of the monotonic clock along, and a sleep that ends three days late is no jump of the wall
clock. So a few lines of C (``clock.c``), preloaded, shift the time of day and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

SOURCE = Path(__file__).with_name("clock.c")
CACHE = Path("/var/cache/lvagent")
DAY = 86_400


def _built() -> Path:
    """The library, built at its first use; several runs may do so at once."""
    library = CACHE / f"lab-clock-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".lab-clock-", dir=CACHE)) / library.name
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(new), str(SOURCE)], check=True)
        new.rename(library)
        new.parent.rmdir()
    return library


class WallClock:
    """One such clock. Made by ``with``.

    :param place: a folder that its programs see, under the same path: the default is seen in a lab, too.
    """

    def __init__(self, place: Path = CACHE) -> None:
        self._place = place
        self.folder = Path()
        """A folder of its own, for more."""

    def __enter__(self) -> Self:
        library = _built()
        self.folder = Path(tempfile.mkdtemp(prefix=".lab-clock-", dir=self._place))
        self.folder.chmod(0o755)
        self._library = Path(shutil.copy(library, self.folder))
        self._file = self.folder / "jump"
        self._file.write_bytes(struct.pack("q", 0))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a program that goes by it; its children do too, if they inherit them."""
        return {"LD_PRELOAD": str(self._library), "LAB_CLOCK": str(self._file)}

    @property
    def within(self) -> list[str]:
        """A command that executes another, which goes by it (``LabHost.start_agent``)."""
        return ["env", *(f"{name}={value}" for name, value in self.environment.items())]

    def jump(self, days: float) -> None:
        """Be so many days ahead of the machine's clock from now on, or behind it."""
        with open(self._file, "r+b", buffering=0) as file:
            file.write(struct.pack("q", int(days * DAY)))

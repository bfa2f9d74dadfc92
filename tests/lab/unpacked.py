"""Programs of Debian packages, unpacked into the cache and not installed.

To install a firewall or Docker starts it and closes the machine it is installed on. So apt is only asked what it would
install (with ``-s``), those archives are fetched, and their files lie in a folder, which ``tests.lab.aside`` lays over
/usr where nobody else sees it. Nothing of it is executed elsewhere, no script of a package ever.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lvagent.errors import CommandError
from lvagent.host.images import cached, packages
from lvagent.host.images.packages import Package

CACHE = Path("/var/cache/lvagent")
DAY = 86_400
_INSTALLED = re.compile(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) .*\[(\S+)\]\)", re.MULTILINE)
_MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders of the root that are links into /usr on the machine, and folders in packages."""


class NotUnpacked(Exception):
    """The packages cannot be had: there is no network, or apt's lists are old."""


def unpacked(*names: str) -> Path:
    """The files of these packages, and of those that they need and the machine lacks.

    :return: a folder with ``usr`` and ``etc``; in the cache, and nobody's to write to.
    :raise NotUnpacked: apt knows none of these, or cannot get one.
    """
    wanted = _wanted(names)
    told = "".join(f"{one.archive}\n" for one in wanted) + Path(__file__).read_text()
    folder = CACHE / f"unpacked-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with cached.locked(CACHE):
        if not folder.exists():
            _unpack(wanted, folder)
            _tidy(folder)
        os.utime(folder)
    return folder


def _tidy(kept: Path) -> None:
    """Remove what was unpacked of other versions, unless somebody used it today."""
    for old in CACHE.glob("unpacked-*"):
        if old != kept and old.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(old)


def _wanted(names: Sequence[str]) -> list[Package]:
    """What an installation would unpack here; those that are named even if they are installed."""
    simulate = ["apt-get", "-s", "-q", "--no-install-recommends", "--reinstall", "install", *names]
    done = subprocess.run(simulate, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    found = [Package(*match) for match in _INSTALLED.findall(done.stdout)]
    missing = {name for name in set(names) - {one.name for one in found} if not _installed(name)}
    if done.returncode or missing:
        raise NotUnpacked(f"apt cannot install {', '.join(sorted(missing or names))}: apt-get update?\n{done.stderr}")
    return sorted(found)


def _installed(name: str) -> bool:
    """Whether the machine has a package; in a version that apt cannot get, it is not told of, and will do."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", name]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def _unpack(wanted: Sequence[Package], folder: Path) -> None:
    for old in CACHE.glob(".unpacked-*"):  # of a run that was killed; the lock is held
        shutil.rmtree(old)
    new = CACHE / f".{folder.name}"
    (CACHE / "packages").mkdir(exist_ok=True)
    try:
        packages.extract(packages.fetch(wanted, CACHE / "packages", lambda _: None), new)
    except CommandError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise NotUnpacked(f"these are needed, and apt cannot fetch them (no network?): {error}") from error
    for name in _MERGED:
        if (new / name).exists():
            shutil.copytree(new / name, new / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(new / name)
    new.rename(folder)

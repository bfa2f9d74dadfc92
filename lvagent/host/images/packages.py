"""Debian packages as material: which versions apt would install, their archives in the cache, their files in a folder.

Nothing is installed. The host's apt decides on mirror, release and keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvagent.errors import CommandError, HostError
from lvagent.host.images import cached
from lvagent.host.run import run


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package in the version that apt would install. ``depends``: the names of its first alternatives."""

    name: str
    version: str
    architecture: str
    depends: tuple[str, ...] = ()

    @property
    def archive(self) -> str:
        """The file name that apt-get download gives it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def candidates(names: Sequence[str]) -> dict[str, Package]:
    """The packages as apt knows them; works offline.

    :raise HostError: apt knows no such package.
    """
    text = run(["apt-cache", "--no-all-versions", "show", *names])
    found = {package.name: package for package in map(_parse, text.strip().split("\n\n")) if package.name in names}
    for name in names:
        if name not in found:
            raise HostError(name, "find", "apt knows no such package", hint="apt-get update")
    return found


def _parse(stanza: str) -> Package:
    fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
    depends = tuple(part.split()[0] for part in fields.get("Depends", "").split(",") if part.strip())
    return Package(fields["Package"], fields["Version"], fields["Architecture"], depends)


def fetch(packages: Sequence[Package], cache: Path, watch: Callable[[str], None]) -> list[Path]:
    """Have the archives of these packages in the cache, whose lock the caller holds; only what is missing is fetched.

    :return: the archives, in the order of the packages.
    :raise CommandError: apt cannot get one.
    """
    missing = [package for package in packages if not (cache / package.archive).exists()]
    if missing:
        watch(f"fetching {len(missing)} packages")
        _download(missing, cache)
    return [cache / package.archive for package in packages]


def fetch_or_keep(
    packages: Sequence[Package], cache: Path, image: Path, watch: Callable[[str], None]
) -> list[Path] | None:
    """As ``fetch``; None if that fails (offline, after apt learned of newer versions) and an older image is there.

    :raise CommandError: apt cannot get one, and there is no image to be content with.
    """
    try:
        return fetch(packages, cache, watch)
    except CommandError:
        if not image.exists():
            raise
        watch(f"newer packages cannot be fetched; {image} stays as it is")
        return None


def _download(packages: Sequence[Package], cache: Path) -> None:
    wanted = [f"{package.name}={package.version}" for package in packages]
    cached.sweep(cache, "fetch")
    with cached.scratch(cache, "fetch") as folder:
        # As root: apt's own user may not write there, and says so at length. The archives' digests are checked anyway.
        get = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *wanted]
        run(["env", "-C", str(folder), *get], timeout=900)
        for package in packages:
            (folder / package.archive).rename(cache / package.archive)


def extract(archives: Sequence[Path], folder: Path) -> None:
    """Unpack the files of the archives into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        run(["dpkg-deb", "-x", str(archive), str(folder)], timeout=300)

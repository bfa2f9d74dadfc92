"""Lab hosts for the tests of this folder; each module gets one of its own unless it asks for more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.host import TREE, LabHost, tree_environment

IMAGES = Path("/var/cache/lvagent/images")
"""Where built images are kept between runs."""


@dataclass(frozen=True, slots=True)
class SshKey:
    """A key pair of this run. ``private``: path of the private key; ``public``: the line for a guest's ``keys``."""

    private: Path
    public: str


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.exit("these tests make namespaces: run them as root (sudo make test)", returncode=2)


@pytest.fixture(scope="session")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> SshKey:
    """A fresh ed25519 key."""
    private = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(private)], check=True)
    return SshKey(private, private.with_suffix(".pub").read_text().strip())


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the tiny guest image, built now if it is not in the cache."""
    environment = {**os.environ, **tree_environment(), "LVAGENT_PATHS_IMAGES": str(IMAGES)}
    build = [sys.executable, "-P", "-m", "lvagent", "image", "build", "tiny"]
    done = subprocess.run(build, env=environment, cwd=TREE, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return "tiny"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabHost]:
    """A host with a running libvirtd and the images of the cache."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with LabHost(images=IMAGES) as host:
        host.start_libvirtd()
        yield host


@pytest.fixture(scope="module")
def agent_lab(lab: LabHost, image: str) -> LabHost:
    """The host with the hook installed and an agent that is ready; guests can be made from ``image``."""
    assert image
    lab.run(["lvagent", "hook", "install"])
    lab.reload_libvirtd()
    lab.start_agent()
    return lab


@pytest.fixture
def fresh_lab() -> Iterator[Callable[[], LabHost]]:
    """Makes hosts for one test alone, with libvirtd; all are gone at its end."""
    made: list[LabHost] = []

    def make() -> LabHost:
        IMAGES.mkdir(parents=True, exist_ok=True)
        host = LabHost(images=IMAGES, underlay=f"192.0.2.{10 + len(made)}/24")
        made.append(host.__enter__())
        host.start_libvirtd()
        return host

    yield make
    for host in reversed(made):
        host.__exit__(None, None, None)

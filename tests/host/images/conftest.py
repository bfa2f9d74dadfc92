"""Images are built once a session, into a folder of the session; packages come from the cache of the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvagent.config import Settings, load
from lvagent.host.images import build_debian, build_tiny
from tests.host.images.cloud import Cloud, cloud


def settings_in(folder: Path, cache: Path | None = None) -> Settings:
    """Settings with an image folder (and a cache) of their own."""
    settings = load()
    paths = dataclasses.replace(settings.paths, images=str(folder), cache=str(cache or settings.paths.cache))
    return dataclasses.replace(settings, paths=paths)


@pytest.fixture(scope="session")
def image_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with the session's image folder."""
    return settings_in(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def tiny(image_settings: Settings) -> Path:
    """The tiny image."""
    return build_tiny(image_settings, watch=lambda _: None)


@pytest.fixture(scope="session")
def debian(image_settings: Settings) -> Path:
    """The Debian image."""
    return build_debian(image_settings, watch=lambda _: None)


@pytest.fixture
def one_nic() -> Iterator[Cloud]:
    """A cloud for a guest with one NIC."""
    with cloud() as made:
        yield made


@pytest.fixture
def two_nics() -> Iterator[Cloud]:
    """A cloud for a guest with two NICs."""
    with cloud(nics=2) as made:
        yield made

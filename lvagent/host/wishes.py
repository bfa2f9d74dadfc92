"""Wishes in files: one JSON document each, in ``paths.vpcs``, root's alone.

    vpc-aaaaaaaaaa.json                          what is wanted of a VPC
    <key>.<kind>.json                            any other wish of that folder

A file is replaced whole (write, fsync, rename, fsync of the folder), so a crash leaves the old wish or the new one. A
document is what ``spec.json`` takes; what it means is for whoever reads it. What cannot be read is told, and kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from lvagent.errors import HostError, SpecError
from lvagent.host import files
from lvagent.spec.json import load

SUFFIX = ".json"
LARGEST = 1 << 20
"""Bytes of one file."""


class WishFiles:
    """The wishes of one kind.

    :param folder: ``paths.vpcs``; it need not be there.
    :param keys: what a key looks like (anchored at its end): it becomes the name of a file.
    :param kind: '' for VPCs; a word for any other.
    """

    def __init__(self, folder: Path, keys: re.Pattern[str], kind: str = "") -> None:
        self._folder = folder
        self._keys = keys
        self._suffix = f".{kind}{SUFFIX}" if kind else SUFFIX

    def _path(self, key: str) -> Path:
        if not self._keys.match(key):
            raise HostError(key, "keep the wish of", "that is not the name of one")
        return self._folder / f"{key}{self._suffix}"

    def keys(self) -> frozenset[str]:
        """Those of which there is a file.

        :raise HostError: the folder cannot be read.
        """
        try:
            found = os.listdir(self._folder)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise HostError(str(self._folder), "read", error.strerror or str(error)) from error
        names = (name.removesuffix(self._suffix) for name in found if name.endswith(self._suffix))
        return frozenset(name for name in names if self._keys.match(name))

    def read(self, key: str) -> object | None:
        """The document of a wish; None if there is none.

        :raise SpecError: the file is no strict JSON.
        :raise HostError: it cannot be read.
        """
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                raw = file.read(LARGEST + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError(str(path), "read", error.strerror or str(error)) from error
        try:
            return load(raw, max_bytes=LARGEST)
        except SpecError as error:
            raise SpecError(str(path), str(error), "mend the file, or PUT the wish again") from error

    def write(self, key: str, document: Mapping[str, object]) -> None:
        """Keep a wish; when this returns, a crash or a power cut does not lose it.

        :raise HostError: no space, read-only.
        """
        path = self._path(key)
        try:
            files.folder(self._folder, 0o700)
            files.write(path, json.dumps(document, indent=2, allow_nan=False) + "\n", mode=0o600)
            self._settle()
        except OSError as error:
            raise HostError(str(path), "write", error.strerror or str(error)) from error

    def remove(self, key: str) -> None:
        """Make sure that there is no such wish.

        :raise HostError: read-only.
        """
        path = self._path(key)
        try:
            files.remove(path)
            if self._folder.is_dir():
                self._settle()
        except OSError as error:
            raise HostError(str(path), "remove", error.strerror or str(error)) from error

    def _settle(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

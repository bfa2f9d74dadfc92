"""An image beside the digest of what it was made of.

    tiny.qcow2             the image by its name
    tiny.qcow2.key         the digest; written last, so that a crash before it costs one more build
    versions/tiny-<digest>.qcow2    the same file by a second name, which never means another one

A volume that is an overlay needs its image as it was when the volume was made: it names the file in ``versions``
(``lasting``), and a later build of ``tiny`` changes nothing below it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lvagent.host import files
from lvagent.render import templates_folder

SHARED = ("cached", "cpio", "disk", "modules", "packages")
"""The modules of this package that every image is made by."""

VERSIONS = "versions"


def texts(name: str) -> Path:
    """The folder of texts that go into the image ``name``."""
    return templates_folder() / "image" / name


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def lay(source: Path, target: Path) -> None:
    """Copy the texts of a folder over another one; one that begins with #! is a program."""
    for path in files_of(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        copy.write_bytes(content)
        copy.chmod(0o755 if content.startswith(b"#!") else 0o644)


def key(name: str, parts: Sequence[str]) -> str:
    """The digest of everything an image is made of: its texts, the builder's own code, and ``parts``."""
    digest = hashlib.sha256()
    for module in (*SHARED, name):
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    for path in files_of(texts(name)):
        digest.update(f"\0{path.relative_to(texts(name))}\0".encode() + path.read_bytes())
    for part in parts:
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()


def is_current(image: Path, wanted: str) -> bool:
    """Is the image there, and made of what has this digest?"""
    return image.exists() and _key_of(image) == wanted


def lasting(image: Path) -> Path:
    """The name of an image's file that a later build leaves alone; its own name if it was not built here."""
    version = _version(image, _key_of(image))
    return version if version.exists() and version.samefile(image) else image


@contextlib.contextmanager
def replacing(image: Path, wanted: str) -> Iterator[Path]:
    """Build an image: gives a scratch folder; the file named like the image in there becomes the image.

    The scratch folder is beside the image (a rename is atomic only within a file system) and is removed whatever
    happens; one that a killed build left is removed first. The caller holds the lock of the image's folder.
    """
    sweep(image.parent, image.stem)
    with scratch(image.parent, image.stem) as folder:
        yield folder
        made = folder / image.name
        made.chmod(0o644)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        _publish(made, image, wanted)


def _publish(made: Path, image: Path, wanted: str) -> None:
    version = _version(image, wanted)
    version.parent.mkdir(exist_ok=True)
    files.remove(version)
    files.remove(_key_file(image))
    os.link(made, version)
    made.rename(image)
    files.write(_key_file(image), wanted)


@contextlib.contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}-") as folder:
        yield Path(folder)


def sweep(parent: Path, name: str) -> None:
    """Remove the scratch folders that killed builds left; the caller holds the folder's lock."""
    for left in parent.glob(f".{name}-*"):
        shutil.rmtree(left)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: a second build waits, and finds the first one's result."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key_file(image: Path) -> Path:
    return image.with_name(f"{image.name}.key")


def _key_of(image: Path) -> str:
    try:
        return _key_file(image).read_text()
    except FileNotFoundError:
        return ""


def _version(image: Path, wanted: str) -> Path:
    return image.parent / VERSIONS / f"{image.stem}-{wanted[:16]}{image.suffix}"

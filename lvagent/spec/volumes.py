"""One volume from its model. Whether its folder is allowed, and what the file is, only the host can tell."""

from __future__ import annotations

import posixpath

from lvagent.errors import SpecError
from lvagent.spec import limits
from lvagent.spec.json import quoted
from lvagent.spec.schema import VolumeModel
from lvagent.spec.vm import Volume

SUFFIX = ".qcow2"


def parse_volume(model: VolumeModel, path: str) -> Volume:
    """A volume whose path is absolute, in its shortest form and printable.

    :raise SpecError: under ``path``.
    """
    _check_path(model.path, f"{path}.path")
    if model.readonly and model.size_gb is not None and model.image is None:
        raise SpecError(
            f"{path}.readonly", "an empty disk that cannot be written", "give an image, or leave size_gb out"
        )
    return Volume(model.path, model.position, model.size_gb, model.image, bool(model.readonly))


def _check_path(text: str, path: str) -> None:
    shown = quoted(text)
    if not text.startswith("/"):
        raise SpecError(path, f"{shown} is not absolute", "begin with /")
    if len(text) > limits.MAX_PATH:
        raise SpecError(path, f"the path has {len(text)} characters", f"at most {limits.MAX_PATH}")
    if not text.isprintable():
        raise SpecError(path, f"{shown} has a control character", "printable characters only")
    if text.startswith("//") or posixpath.normpath(text) != text:
        raise SpecError(path, f"{shown} is not in its shortest form", "no '..', no '.', no '//', no '/' at its end")
    if not text.endswith(SUFFIX) or posixpath.basename(text) == SUFFIX:
        raise SpecError(path, f"{shown} is not named *{SUFFIX}", f"volumes are qcow2 files and end in {SUFFIX}")
    if any(len(part.encode()) > limits.MAX_FILE_NAME for part in text.split("/")):
        raise SpecError(path, "a part of the path is too long", f"at most {limits.MAX_FILE_NAME} bytes")

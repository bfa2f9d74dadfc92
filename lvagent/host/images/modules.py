"""The kernel's modules: which others a module needs, and a folder with just some of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lvagent.errors import HostError

DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
"""The field of a module's .modinfo section: names separated by commas."""


def closure(tree: Path, names: Sequence[str]) -> list[Path]:
    """The files of these modules and of all that they need, in the order in which they can be loaded.

    :param tree: a folder as /lib/modules/<release>.
    :raise HostError: the kernel has no such module.
    """
    where = {_name(path): path for path in tree.rglob("*.ko")}
    order: dict[str, Path] = {}

    def visit(name: str) -> None:
        if name in order:
            return
        if name not in where:
            raise HostError(f"module {name}", "find", f"not in {tree.name}")
        for needed in depends(where[name]):
            visit(needed)
        order[name] = where[name]

    for name in names:
        visit(name)
    return list(order.values())


def depends(module: Path) -> list[str]:
    """The names of the modules that this one needs loaded before it."""
    match = DEPENDS.search(module.read_bytes())
    return [name.decode() for name in match[1].split(b",") if name] if match else []


def install(tree: Path, names: Sequence[str], target: Path) -> None:
    """Put these modules with what they need into a folder of its own, with the modules.dep that modprobe reads."""
    target.mkdir(parents=True)
    lines = []
    for path in closure(tree, names):
        shutil.copyfile(path, target / path.name)
        needed = [other.name for other in reversed(closure(tree, depends(path)))]
        lines.append(f"{path.name}: {' '.join(needed)}".rstrip() + "\n")
    (target / "modules.dep").write_text("".join(lines))


def _name(path: Path) -> str:
    return path.stem.replace("-", "_")

"""What lvagent writes outside of its own folders: the libvirt hook, and on request a service and two exceptions.

Each is a whole file that bears our name in its text; one of that name without it is a stranger's and stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lvagent.config import Settings
from lvagent.errors import HostError
from lvagent.host import files
from lvagent.render import hook, unit

MARK = "lvagent"

DEADLINE_SECONDS = 10.0
"""Within which the hook ends; libvirt has no limit of its own."""


def hook_path(settings: Settings) -> Path:
    """Where libvirt looks for the hook."""
    return Path(settings.paths.hooks) / "qemu.d" / MARK


def hook_text(settings: Settings) -> str:
    """The hook for this installation: it finds this very code when it has to work alone."""
    paths = f"import sys; sys.dont_write_bytecode = True; sys.path[:0] = {_places()!r}"
    bootstrap = f"{paths}; from lvagent.hook import main; main()"
    return hook.hook_script(settings.hook_socket, "/usr/bin/python3", bootstrap, DEADLINE_SECONDS)


def _tree() -> str:
    return str(Path(__file__).parent.parent)


def _places() -> list[str]:
    """Where this code and its libraries are; not the folder that happens to be the current one."""
    here = str(Path.cwd())
    found = (place for place in sys.path if place and place != here and Path(place).is_dir())
    return list(dict.fromkeys((_tree(), *found)))


def service_texts() -> dict[Path, str]:
    """The unit of the agent, and the files that keep network daemons off its links, by the place of each."""
    command = ["/usr/bin/env", f"PYTHONPATH={_tree()}", sys.executable, "-P", "-m", "lvagent", "serve"]
    return {
        Path("/etc/systemd/system/lvagent.service"): unit.service_unit(command),
        Path("/etc/systemd/network/05-lvagent.network"): unit.networkd_unmanaged(),
        Path("/etc/NetworkManager/conf.d/lvagent.conf"): unit.networkmanager_unmanaged(),
    }


def put(path: Path, text: str, *, mode: int) -> bool:
    """Write a file of ours, as a real file, if it is not there as it should be.

    :param mode: its permission bits.
    :return: whether it was written.
    :raise HostError: something of that name is not ours, or it cannot be written.
    """
    try:
        if path.exists() or path.is_symlink():
            there = path.read_text()
            if there == text and not path.is_symlink():
                return False
            if MARK not in there:
                raise HostError(str(path), "write", "a file of that name is there that is not of lvagent")
        files.folder(path.parent)
        files.write(path, text, mode=mode)
    except OSError as error:
        raise HostError(str(path), "write", error.strerror or str(error)) from error
    return True


def take(path: Path) -> bool:
    """Remove a file if it is ours; whether it was."""
    try:
        if MARK not in path.read_text():
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(str(path), "read", error.strerror or str(error)) from error
    files.remove(path)
    return True

"""The files of /proc/net that tell who listens, as a kernel on this machine writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from lvagent.host.listeners import Listener, listeners

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(place: str, state: str, inode: int) -> str:
    return (
        f"   0: {place} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100\n"
    )


def word(*octets: int) -> str:
    """Four octets of an address as the kernel prints them: a number of this machine."""
    return f"{int.from_bytes(bytes(octets), sys.byteorder):08X}"


def test_who_takes_what_comes(tmp_path: Path) -> None:
    any4, loop, own = word(0, 0, 0, 0), word(127, 0, 0, 1), word(192, 0, 2, 1)
    (tmp_path / "tcp").write_text(
        HEAD + row(f"{any4}:0016", "0A", 1) + row(f"{loop}:1F90", "0A", 2) + row(f"{own}:1F91", "0A", 3)
        + row(f"{own}:1F92", "01", 4)
    )  # fmt: skip
    six, mapped = word(0x20, 1, 0xD, 0xB8) + any4 * 2 + word(0, 0, 0, 1), any4 * 2 + word(0, 0, 255, 255) + own
    (tmp_path / "tcp6").write_text(HEAD + row(f"{six}:0050", "0A", 5) + row(f"{mapped}:0051", "0A", 6))
    (tmp_path / "udp").write_text(HEAD + row(f"{any4}:0035", "07", 7) + row(f"{own}:9999", "01", 8))
    found = listeners(tmp_path)
    assert found == (
        Listener("tcp", "", 22, 1),
        Listener("tcp", "192.0.2.1", 8081, 3),
        Listener("tcp", "2001:db8::1", 80, 5),
        Listener("tcp", "192.0.2.1", 81, 6),
        Listener("udp", "", 53, 7),
    )
    ssh, web = found[0], found[1]
    assert ssh.takes("tcp", "192.0.2.7", 20, 30)
    assert not ssh.takes("udp", "", 20, 30)
    assert not ssh.takes("tcp", "", 23, 30)
    assert web.takes("tcp", "", 8081, 8081)
    assert web.takes("tcp", "192.0.2.1", 8081, 8081)
    assert not web.takes("tcp", "192.0.2.2", 8081, 8081)

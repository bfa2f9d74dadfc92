"""Filters in the kernel: written as text through libnftables, read back over netlink (``host.nft_read``).

libnftables turns a text into one transaction, in this process (spawning nft(8) would cost 25 ms). Its answer is read:
an unread return code would leave a port open that is believed closed. It keeps tables of its own that are shared by
all its contexts, so one call runs at a time. Source: libnftables.h.
"""

from __future__ import annotations

import ctypes
import threading

from lvagent.errors import HostError

_lock = threading.RLock()
"""Reentrant: the collector of garbage may free a context between any two steps of a thread that is in a call."""
_HANDLES = 1 << 3
"""NFT_CTX_OUTPUT_HANDLE."""


def without(table: str) -> str:
    """Commands that make sure that there is no such table, whoever takes it away meanwhile.

    :param table: family and name.
    """
    return f"add table {table}\ndelete table {table}\n"


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise HostError("libnftables.so.1", "load", str(error), hint="install the package libnftables1") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library


class Nft:
    """A libnftables context; it acts in the namespace of the thread that made it, whichever thread calls.

    :param handles: whether what it lists bears the numbers of rules.
    :raise HostError: there is no libnftables.
    """

    def __init__(self, *, handles: bool = False) -> None:
        with _lock:
            self._library = _library()
            self._context: int | None = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
            if handles:
                self._library.nft_ctx_output_set_flags(self._context, _HANDLES)

    def run(self, commands: str, resource: str, action: str = "filter") -> str:
        """Carry out commands as one transaction: all of them or none.

        :param resource: what an error is about.
        :return: what nft printed.
        :raise HostError: nft refused; nothing was changed.
        """
        with _lock:
            if self._context is None:
                raise HostError(resource, action, "its filter context is closed")
            failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            said = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
            printed: str = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        if failed:
            raise HostError(resource, action, f"nft: {said.strip().splitlines()[0] if said.strip() else failed}")
        return printed

    def close(self) -> None:
        """Free the context; the namespace is no longer held."""
        with _lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None

"""Guest images: made here, from Debian's packages and the texts of ``templates/image``.

``tiny`` is busybox, dropbear and Debian's cloud kernel: some 30 MB that answer over SSH seconds after the start, with a
root shell without a password on the serial console. ``debian`` is bookworm with cloud-init. Neither needs a loop
device, a mount, or a package installed on the host for the guest's sake.

An image is kept with the digest of all that went into it. The same digest again: nothing is done, nothing is fetched.
"""

from lvagent.host.images.cached import lasting
from lvagent.host.images.debian import build_debian
from lvagent.host.images.tiny import CMDLINE, build_tiny, tiny_kernel

__all__ = ["CMDLINE", "build_debian", "build_tiny", "lasting", "tiny_kernel"]

"""The bounds of a specification, each with its reason."""

from __future__ import annotations

MIN_MEMORY_MB = 16
MAX_MEMORY_MB = 4_194_304
"""4 TiB: what qemu's 42 physical address bits hold; a larger number is a slip of the unit."""

MAX_CPUS = 255
"""Above it an x86 guest needs an IOMMU with extended interrupt mode (libvirt refuses it without)."""

MAX_POSITION = 99
"""Two digits: what the name of a tap has room for (``names.tap``)."""

MAX_VOLUMES = 24
MAX_NETWORKS = 16
MAX_RULES = 1000
MAX_KEYS = 64

MAX_KEY_LENGTH = 8192
"""Characters of an SSH public key line; RSA with 16384 bits takes 2 800."""

MAX_SIZE_GB = 65_536
MAX_PATH = 1024
MAX_FILE_NAME = 255
"""Bytes of one part of a path (NAME_MAX)."""

MIN_MTU_V4 = 576
"""Every IPv4 host takes datagrams of 576 bytes (RFC 791)."""
MIN_MTU_V6 = 1280
"""No IPv6 link is smaller (RFC 8200, 5)."""
MAX_MTU = 9216

MIN_PREFIX_V4, MAX_PREFIX_V4 = 8, 30
"""/31 has no room for a gateway and a broadcast address beside the VM."""
MIN_PREFIX_V6, MAX_PREFIX_V6 = 64, 126
"""dnsmasq serves no range wider than /64; /127 leaves one address beside the subnet-router anycast address."""

MAX_USER_DATA = 65_536 - 1024
"""Bytes: a libvirt secret holds 64 KiB, and something beside it may be kept there."""

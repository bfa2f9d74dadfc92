"""A VM as libvirt's domain XML.

The XML is made to be defined again and again: the same spec gives the same text, and what the guest sees of a device
hangs on its position, not on its place in a list. What was chosen, and why:

* CPU. With KVM ``host-model``: nearly all of the host's features, under names, so that libvirt can say whether another
  host has them. Without KVM a named model, ``Nehalem``: all its features are there in software emulation (libvirt calls
  it usable), it is the x86-64-v2 that some distributions want, and it is the same on every host and qemu, so a VM may
  migrate. ``maximum`` changes with qemu's version, and its five-level page tables make emulation slower.
* Disks. ``writeback``: right on every file system (``none`` needs O_DIRECT, which some lack), the guest's flushes are
  obeyed, and libvirt lets such a disk migrate since qemu drops its cache at the hand-over. ``unmap`` twice: what a
  guest trims or zeroes goes back to the host. The format is said, never probed.
* NICs. ``ethernet`` with a managed tap of our name: libvirt makes it in the root namespace before qemu runs, and the
  hook moves it. libvirt gives another name only to targets that begin as its own do (``vnet``). No boot ROM.
* PCI addresses are libvirt's choice: it gives NICs theirs first, in their order, so another disk renames no interface.
  A q35 machine takes one device per root port; some ports stay free for devices that are plugged in while it runs.
* ``on_crash`` is ``preserve``: a guest that reports a panic stays there as ``crashed``, with its memory, also after a
  restart of libvirtd. No panic device is added, for it would keep a guest from rebooting by itself (``panic=10``).
* No display, no USB, no video: the console is the serial line, with a log that virtlogd keeps.

Sources: https://libvirt.org/formatdomain.html, virsh domcapabilities (libvirt 9.0, qemu 7.2), and cloud-init's
ds-identify for SMBIOS.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lxml import etree
from markupsafe import Markup

from lvagent.errors import SpecError
from lvagent.render import render
from lvagent.render.element import read_xml
from lvagent.spec import names
from lvagent.spec.vm import Datasource, Network, VmConfig, Volume

EMULATED_CPU = "Nehalem"
"""The CPU model without KVM; see above."""

SPARE_PORTS = 4
"""PCIe root ports left free for hot-plugging."""

TRANSLATION_CACHE = 64
"""MiB of translated code that a guest without KVM keeps. qemu's own choice takes a third more memory, and a guest that
reboots within it was seen to take five times as long (qemu 7.2)."""

OTHER_DEVICES = 3
"""PCI devices beside disks and NICs: virtio-serial, balloon, rng."""

SCHEMAS = "/usr/share/libvirt/schemas"
"""Where libvirt's packages put its RELAX NG schemas."""

_UUIDS = uuid.UUID("6c766167-656e-5474-8000-000000000001")
_NO_MTUS: Mapping[int, int] = MappingProxyType({})
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")
_CHOICES = {"accel": ("kvm", "qemu"), "firmware": ("bios", "uefi"), "datasource": tuple(Datasource)}


@dataclass(frozen=True, slots=True)
class DomainOptions:
    """How domains are rendered on a host.

    ``accel``: the domain type, kvm or qemu (software emulation). ``cpu``: host-model, host-passthrough, maximum, or the
    name of a model; empty: as the module says. ``machine``: q35, pc, or a versioned name of one. ``firmware``: bios or
    uefi (without secure boot). ``emulator``: path of qemu; empty: libvirt's choice. ``datasource``: of VMs that name
    none. ``consoles``: folder of the consoles' logs; empty: no logs. ``fast_capabilities``: libvirt asks qemu for no
    CPU properties at a start, which takes most of its time; it taints the domain, so it is for tests.

    :raise SpecError: a value that is not one of its choices.
    """

    accel: str = "qemu"
    cpu: str = ""
    machine: str = "q35"
    firmware: str = "bios"
    emulator: str = ""
    datasource: str = Datasource.NOCLOUD
    consoles: str = "/var/log/libvirt/qemu"
    fast_capabilities: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecError(
                    f"guests.{name}", f"{getattr(self, name)!r} is not known", f"one of {', '.join(choices)}"
                )
        if not _WORD.match(self.machine):
            raise SpecError("guests.machine", f"{self.machine!r} is not the name of a machine", "such as q35")
        cpu_of(self)

    def console_log(self, vm: str) -> str:
        """Path of the log of a VM's serial console ('' without logs); libvirt's own log of it is ``<id>.log``."""
        return f"{self.consoles}/{vm}-console.log" if self.consoles else ""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The ``<cpu>`` element; an empty part is left out."""

    mode: str
    check: str
    match: str = ""
    migratable: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class _Disk:
    path: str
    target: str
    serial: str
    readonly: bool
    boot: bool


@dataclass(frozen=True, slots=True)
class _Nic:
    mac: str
    tap: str
    mtu: int | None


def domain_xml(vm: VmConfig, options: DomainOptions, element: str, *, mtus: Mapping[int, int] = _NO_MTUS) -> str:
    """The domain of a VM.

    :param element: the element of ours, as ``render_element`` gives it.
    :param mtus: MTU (bytes) by NIC position for NICs whose spec names none; qemu tells it to the guest's driver.
        Without one the guest learns it by DHCP and RA only.
    :raise SpecError: a value of the spec cannot be written as XML; an element that is none.
    """
    disks = tuple(_disk(vm.id, volume) for volume in vm.volumes)
    nics = tuple(_nic(vm.id, nic, mtus) for nic in vm.networks)
    mark = read_xml(element)
    text = render(
        "domain.xml.j2",
        accel=options.accel,
        console_log=options.console_log(vm.id),
        cpu=cpu_of(options),
        disks=disks,
        element=Markup(element),
        emulator=options.emulator,
        fast_capabilities=options.fast_capabilities,
        machine=options.machine,
        nics=nics,
        root_ports=_root_ports(vm, options),
        smbios=_smbios(vm, options),
        timers=("kvmclock",) if options.accel == "kvm" else (),
        translation_cache=TRANSLATION_CACHE if options.accel == "qemu" else None,
        uefi=options.firmware == "uefi",
        uuid=domain_uuid(vm.id, datasource_of(vm, options)),
        vm=vm,
    )
    _check(text, mark, disks)
    return text


def _check(text: str, mark: etree._Element, disks: tuple[_Disk, ...]) -> None:
    """Read the text back: one domain, with the element as it was given and the paths as they were asked for."""
    root = read_xml(text)
    found = root.findall(f"metadata/{{{names.ELEMENT_NAMESPACE}}}vm")
    if root.tag != "domain" or len(found) != 1 or _canonical(found[0]) != _canonical(mark):
        raise SpecError("metadata", "the element is not one of lvagent")
    if [source.get("file") for source in root.iterfind("devices/disk/source")] != [disk.path for disk in disks]:
        raise SpecError("volumes", "a path cannot be written as XML", "printable characters only")


def _canonical(node: etree._Element) -> bytes:
    return etree.tostring(node, method="c14n", exclusive=True, with_tail=False)


def _disk(vm: str, volume: Volume) -> _Disk:
    return _Disk(
        path=volume.path,
        target=disk_target(volume.position),
        serial=f"{vm}-{volume.position}",
        readonly=volume.readonly,
        boot=volume.position == 0,
    )


def disk_target(position: int) -> str:
    """libvirt's name of the disk at a position: vda, vdb ... vdz, vdaa; the guest counts for itself.

    It is computed from the position alone, so a disk keeps it when another comes or goes.
    """
    letters = ""
    rest = position + 1
    while rest:
        rest, letter = divmod(rest - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"vd{letters}"


def _nic(vm: str, nic: Network, mtus: Mapping[int, int]) -> _Nic:
    return _Nic(mac=nic.mac, tap=names.tap(vm, nic.position), mtu=nic.mtu or mtus.get(nic.position))


def _root_ports(vm: VmConfig, options: DomainOptions) -> int:
    """PCIe root ports that are asked for; a pc machine has none."""
    return len(vm.networks) + len(vm.volumes) + OTHER_DEVICES + SPARE_PORTS if "q35" in options.machine else 0


def cpu_of(options: DomainOptions) -> Cpu:
    """The CPU that guests get.

    :raise SpecError: passthrough of a CPU that is emulated; a name that cannot be one of a model.
    """
    wish = options.cpu or ("host-model" if options.accel == "kvm" else EMULATED_CPU)
    if wish == "host-passthrough" and options.accel != "kvm":
        raise SpecError("guests.cpu", "host-passthrough needs KVM", "leave it empty, or name a model")
    if wish == "host-model":
        return Cpu(wish, "partial")
    if wish in ("host-passthrough", "maximum"):
        return Cpu(wish, "none", migratable="on")
    if not _MODEL.match(wish):
        raise SpecError("guests.cpu", f"{wish!r} is not the name of a CPU model", "see virsh domcapabilities")
    return Cpu("custom", "partial", match="exact", model=wish)


def datasource_of(vm: VmConfig, options: DomainOptions) -> Datasource:
    """The datasource that a VM shows its guest."""
    return vm.datasource or Datasource(options.datasource)


def domain_uuid(vm_id: str, datasource: Datasource = Datasource.NOCLOUD) -> uuid.UUID:
    """The domain's UUID, which is the guest's SMBIOS system UUID too: the same on every host.

    cloud-init takes a UUID that begins with ``ec2`` (in either byte order) for Amazon's, so exactly the VMs with the
    ec2 datasource have such a one. A VM whose datasource becomes or ceases to be ec2 thus gets another UUID, and
    libvirt wants its domain undefined before.
    """
    first = uuid.uuid5(_UUIDS, vm_id)
    if datasource is Datasource.EC2:
        return uuid.UUID(f"ec2{str(first)[3:]}")
    found, again = first, 0
    while _looks_like_ec2(found):
        again += 1
        found = uuid.uuid5(_UUIDS, f"{vm_id}/{again}")
    return found


def _looks_like_ec2(value: uuid.UUID) -> bool:
    return value.hex.startswith("ec2") or value.bytes_le.hex().startswith("ec2")


def _smbios(vm: VmConfig, options: DomainOptions) -> tuple[tuple[str, str], ...]:
    """The system entries by which cloud-init finds its datasource, and no other one."""
    match datasource_of(vm, options):
        case Datasource.NOCLOUD:
            return (("serial", f"ds=nocloud-net;s=http://{_metadata_host(vm)}/nocloud/"),)
        case Datasource.OPENSTACK:
            return (("manufacturer", "OpenStack Foundation"), ("product", "OpenStack Nova"))
        case Datasource.EC2:
            return (("serial", str(domain_uuid(vm.id, Datasource.EC2))),)


def _metadata_host(vm: VmConfig) -> str:
    """Where the guest reaches the metadata service: by IPv4 if any NIC has it."""
    return names.METADATA_V4 if any(nic.ipv4 for nic in vm.networks) else f"[{names.METADATA_V6}]"


def validate(xml: str, schemas: str = SCHEMAS) -> None:
    """Check a domain against libvirt's own schema.

    :param schemas: the folder of domain.rng.
    :raise SpecError: with the schema's first complaint.
    """
    schema = _schema(schemas)
    if not schema.validate(read_xml(xml)):
        raise SpecError("domain", str(schema.error_log.last_error), "compare with libvirt.org/formatdomain.html")


@functools.cache
def _schema(folder: str) -> etree.RelaxNG:
    return etree.RelaxNG(file=f"{folder}/domain.rng")

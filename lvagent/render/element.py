"""The element in a domain's metadata that makes it ours.

libvirt keeps it with the domain, in its config and in its live copy: the spec, its digest, and what else must outlive
the agent. Any local user can read a domain's XML, so no secret stands in it. The spec and the list of files are JSON in
ASCII: characters that XML cannot hold (controls, halves of surrogate pairs) come back exactly, and those that XML would
read as its own are not in it at all.

The same text serves ``virDomainDefineXML``, within a domain, and ``virDomainSetMetadata``, alone. That is why the
namespace is the default one of the element and has no prefix: libvirt declares the prefix it is told to use (``KEY``)
on the element, and refuses one that is declared already. What ``virDomainGetMetadata`` returns has lost its namespace,
and is read all the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lxml import etree
from markupsafe import Markup

from lvagent.errors import SpecError
from lvagent.render import render
from lvagent.spec.dump import dump_vm
from lvagent.spec.json import load
from lvagent.spec.names import ELEMENT_NAMESPACE
from lvagent.spec.parse import parse_vm
from lvagent.spec.vm import VmConfig

KEY = "lvagent"
"""The prefix to give to ``virDomainSetMetadata``."""

PATH = "metadata"
"""Where errors say that they are."""

POWERS = ("running", "stopped", "absent", "absent-with-volumes")
"""What may be wanted of a VM. The last two are deletions that have not come to their end."""

MAX_JSON = 8 << 20
"""Bytes of a spec; the largest that its limits allow stays under two million."""

_VM = f"{{{ELEMENT_NAMESPACE}}}vm"
_WORD = re.compile(r"[!-~]{1,200}\Z")
_REVISION = re.compile(r"[0-9]{1,18}\Z")
_XML_OWN = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}
_USER_DATA = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Element:
    """What the element says.

    ``spec``: without user data. ``digest``: of the spec. ``revision``: grows with each wish. ``power``: one of
    ``POWERS``. ``boot_id``: of the kernel under which the VM was started last. ``created``: RFC 3339 time at which the
    create was done; None until then. ``files``: paths of the volumes that the agent made or is about to make.
    ``making``: of those that a change is about to make; nobody uses them before the change has its own wish.
    ``has_user_data``: whether a libvirt secret holds some.
    """

    spec: VmConfig
    digest: str
    revision: int
    power: str
    boot_id: str | None
    created: str | None
    files: tuple[str, ...] = ()
    has_user_data: bool = False
    making: tuple[str, ...] = ()


def render_element(element: Element) -> str:
    """The element as XML, for a domain's ``<metadata>`` and for ``virDomainSetMetadata`` with the key ``KEY``.

    :raise SpecError: a part of it could not be read back.
    """
    _check_words(element)
    return render(
        "element.xml.j2",
        namespace=ELEMENT_NAMESPACE,
        element=element,
        spec=_json(dump_vm(element.spec, secrets=False)),
        files=_json(list(element.files)),
        making=_json(list(element.making)) if element.making else None,
    ).rstrip("\n")


def _check_words(element: Element) -> None:
    if element.power not in POWERS:
        raise SpecError(f"{PATH}.power", f"{element.power!r} cannot be wanted", f"one of {', '.join(POWERS)}")
    if element.revision < 0:
        raise SpecError(f"{PATH}.revision", f"{element.revision} is less than 0")
    for name, value in (("digest", element.digest), ("boot-id", element.boot_id), ("created", element.created)):
        if value is not None and not _WORD.match(value):
            raise SpecError(f"{PATH}.{name}", f"{value!r} is not one printable ASCII word")


def _json(value: object) -> Markup:
    """JSON that is XML text as it stands, so that it stays readable in ``virsh dumpxml``."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return Markup(text.translate(_XML_OWN))


def parse_element(xml: str) -> Element:
    """What an element says: as rendered, as ``virDomainGetMetadata`` returns it, or within a domain's XML.

    :raise SpecError: there is none, or it cannot be read.
    """
    root = read_xml(xml)
    if root.tag == "domain":
        inside = _within(root)
        if inside is None:
            raise SpecError(PATH, "the domain has no element of lvagent")
        root = inside
    if root.tag not in (_VM, "vm"):
        raise SpecError(PATH, f"the element is {root.tag}, not vm in {ELEMENT_NAMESPACE}")
    power, created = _attribute(root, "power"), root.get("created")
    if power not in POWERS:
        raise SpecError(f"{PATH}.power", f"{power!r} cannot be wanted", f"one of {', '.join(POWERS)}")
    return Element(
        spec=_spec(root),
        digest=_attribute(root, "digest"),
        revision=_revision(root),
        power=power,
        boot_id=root.get("boot-id"),
        created=created,
        files=_paths(root, "files"),
        making=_paths(root, "making") if _has(root, "making") else (),
        has_user_data=_has_user_data(root),
    )


def find_element(domain_xml: str) -> str | None:
    """The text of the element within a domain's XML; None if the domain is a stranger's.

    :raise SpecError: this is no domain, or it has two such elements.
    """
    root = read_xml(domain_xml)
    if root.tag != "domain":
        raise SpecError(PATH, f"the root is {root.tag}, not domain")
    found = _within(root)
    return None if found is None else etree.tostring(found, encoding="unicode", with_tail=False)


def _within(domain: etree._Element) -> etree._Element | None:
    found = domain.findall(f"metadata/{_VM}")
    if len(found) > 1:
        raise SpecError(PATH, "the domain has two elements of lvagent", "leave the right one: virsh edit")
    return found[0] if found else None


def read_xml(text: str) -> etree._Element:
    """The root of an XML text. Nothing outside of the text is read, and there are no entities but XML's own.

    :raise SpecError: it is not well-formed, or has a document type.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        remove_blank_text=True, remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        raise SpecError(PATH, f"this is not XML: {error}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise SpecError(PATH, "the XML has a document type", "leave <!DOCTYPE ...> out")
    return root


def _has(root: etree._Element, name: str) -> bool:
    return any(child.tag in (f"{{{ELEMENT_NAMESPACE}}}{name}", name) for child in root)


def _child(root: etree._Element, name: str) -> str:
    found = [child for child in root if child.tag in (f"{{{ELEMENT_NAMESPACE}}}{name}", name)]
    if len(found) != 1 or len(found[0]):
        raise SpecError(f"{PATH}.{name}", f"there are {len(found)} of it", "one, without elements inside")
    return found[0].text or ""


def _spec(root: etree._Element) -> VmConfig:
    try:
        return parse_vm(load(_child(root, "spec").encode(), max_bytes=MAX_JSON))
    except SpecError as error:
        raise SpecError(f"{PATH}.spec", str(error), error.hint) from None


def _paths(root: etree._Element, name: str) -> tuple[str, ...]:
    try:
        found: object = json.loads(_child(root, name))
    except ValueError as error:
        raise SpecError(f"{PATH}.{name}", f"this is not JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise SpecError(f"{PATH}.{name}", "this is not a list of paths")
    return tuple(found)


def _attribute(root: etree._Element, name: str) -> str:
    value = root.get(name)
    if value is None or not _WORD.match(value):
        raise SpecError(f"{PATH}.{name}", "it is not there" if value is None else f"{value!r} is not a word")
    return str(value)


def _revision(root: etree._Element) -> int:
    text = _attribute(root, "revision")
    if not _REVISION.match(text):
        raise SpecError(f"{PATH}.revision", f"{text!r} is not a whole number")
    return int(text)


def _has_user_data(root: etree._Element) -> bool:
    text = _attribute(root, "user-data")
    if text not in _USER_DATA:
        raise SpecError(f"{PATH}.user-data", f"{text!r} is neither yes nor no")
    return _USER_DATA[text]

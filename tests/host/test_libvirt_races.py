"""Domains and secrets that change while libvirt is asked about them. libvirt's own test driver has the domains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest

from lvagent.errors import HostError, NotFound, Unavailable, Vanished
from lvagent.host import libvirt as ours
from lvagent.host.libvirt import Hypervisor
from lvagent.host.libvirt_lines import translate
from lvagent.spec.names import ELEMENT_NAMESPACE

pytestmark = pytest.mark.host

URI = "test:///default"
VM = "i-0000000001"


def error(code: int, text: str = "made up") -> libvirt.libvirtError:
    """An error of libvirt's with this number."""
    made = libvirt.libvirtError(text)
    made.err = (code, 0, text, 0, None, None, None, 0, 0)
    return made


@pytest.fixture
def domain() -> Iterator[Any]:
    """The test driver's domain, which runs. There is one in this process, for all connections."""
    connection = libvirt.open(URI)
    found = connection.lookupByName("test")
    if not found.isActive():
        found.create()
    yield found
    if not found.isActive():
        found.create()
    connection.close()


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    made = Hypervisor(URI)
    yield made
    made.close()


def after(monkeypatch: pytest.MonkeyPatch, question: str, then: Callable[[Any], object]) -> None:
    """Have something happen right after the next time that libvirt answers a question about a domain."""
    ask = getattr(libvirt.virDomain, question)

    def answer(domain: Any) -> int:  # noqa: ANN401 - untyped
        monkeypatch.setattr(libvirt.virDomain, question, ask)
        told: int = ask(domain)
        then(domain)
        return told

    monkeypatch.setattr(libvirt.virDomain, question, answer)


def test_a_guest_that_ends_while_it_is_marked(
    hypervisor: Hypervisor,
    domain: Any,  # noqa: ANN401 - untyped
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A delete marks both copies; with the guest the live one has gone."""
    after(monkeypatch, "isActive", lambda one: one.destroy())
    hypervisor.set_element("test", "<vm/>", config=True, live=True)
    assert not domain.isActive()
    assert "vm" in domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, ELEMENT_NAMESPACE)
    domain.create()
    after(monkeypatch, "isActive", lambda one: one.destroy())
    hypervisor.set_element("test", "<vm/>", config=False, live=True)


def test_what_libvirt_refuses_to_mark_for_another_reason_is_told(
    hypervisor: Hypervisor,
    domain: Any,  # noqa: ANN401 - untyped
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object) -> None:
        raise error(libvirt.VIR_ERR_OPERATION_INVALID)

    monkeypatch.setattr(libvirt.virDomain, "setMetadata", refuse)
    with pytest.raises(HostError, match="cannot mark test"):
        hypervisor.set_element("test", "<vm/>", config=True, live=True)


class Gone:
    """A secret that somebody undefined after it was listed."""

    def value(self) -> bytes:
        raise error(libvirt.VIR_ERR_NO_SECRET)

    undefine = value


def test_a_secret_that_goes_after_it_was_listed_is_no_more_there(
    hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "_slots", lambda _connection: {VM: {1: Gone()}})
    assert hypervisor.secret(VM, 1) is None
    hypervisor.drop_secret(VM)


def test_a_domain_that_libvirt_is_at_work_on_is_asked_about_again() -> None:
    busy = translate(error(libvirt.VIR_ERR_OPERATION_TIMEOUT), VM, "mark")
    assert isinstance(busy, Unavailable)
    assert isinstance(translate(error(libvirt.VIR_ERR_NO_DOMAIN), VM, "mark"), NotFound)


def test_a_qemu_that_ends_while_it_is_asked_is_gone_and_one_that_ends_as_it_starts_says_why() -> None:
    lost = error(libvirt.VIR_ERR_SYSTEM_ERROR, "Unable to read from monitor: Connection reset by peer")
    assert isinstance(translate(lost, VM, "pause"), Vanished)
    assert type(translate(lost, VM, "start")) is HostError
    text = "internal error: process exited while connecting to monitor: qemu: no such disk"
    assert type(translate(error(libvirt.VIR_ERR_INTERNAL_ERROR, text), VM, "start")) is HostError

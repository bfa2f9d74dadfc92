"""Documents of all kinds, from the schema of a spec and from specs that are right: a VM that holds everywhere, or an
error that helps.

What is accepted is the same VM after a dump, is allowed by the schema, is a domain by libvirt's schema, and has a
filter, DHCP and metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import jsonschema
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.coverage._operation import iter_coverage_cases
from schemathesis.specs.openapi.schemas import OpenApiSchema

from lvagent.errors import SpecError
from lvagent.plan import wanted
from lvagent.plan.resources import PortFilter
from lvagent.render import dnsmasq, nft
from lvagent.render.domain import validate
from lvagent.render.element import parse_element
from lvagent.spec import json as strict
from lvagent.spec.dump import digest, dump_vm
from lvagent.spec.parse import parse_vm, vm_schema
from lvagent.spec.schema import VmModel
from lvagent.spec.shape import canonical
from lvagent.spec.vm import VmConfig
from tests.e2e.fuzz.sent import ODD, drawn, replaced
from tests.unit.plan.test_wanted import POLICY
from tests.unit.render.domain_cases import element, rendered
from tests.unit.spec.spec_examples import documents

CASES, MANY = 100, 4000
SCHEMA = jsonschema.Draft202012Validator(vm_schema())
SECRET = "canary-5e1f"

MORE: tuple[object, ...] = (
    *(
        "10.0.0.0/24",
        "10.0.0.255/24",
        "255.255.255.255",
        "224.0.0.1/4",
        "127.0.0.1/8",
        "169.254.169.254/30",
        "10.0.0.5/31",
    ),
    *(
        "fe80::1/64",
        "::1/128",
        "ff02::1/16",
        "fd00:ec2::254/64",
        "::ffff:10.0.0.5/126",
        "fd00::5%eth0/64",
        "fd00::5/63",
    ),
    *(
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "06-00-00-00-00-01",
        "6:0:0:0:0:1",
        "0600.0000.0001",
        "06:00:00:00:00:01",
    ),
    *(1279, 1280, 9216, 9217, 575, 576, 16, 15, 255, 256, 99, 100, 2_000_000, 2_000_001, 65_535, 65_536, 4_194_305),
    *("/v/.qcow2", "/v/a.QCOW2", "/v/\u202ea.qcow2", "/v/\u00a0.qcow2", "/" + "x" * 1018 + ".qcow2", "/v/é.qcow2"),
    *("ssh-rsa AAAA", "ssh-ed25519 AAAA\nssh-rsa B", 'command="x" ssh-ed25519 AAAA', SECRET, {"base64": SECRET}),
)
"""Values at the bounds of what some field may have."""


def holds(document: object) -> bool:
    """Whether a document is accepted; what must hold then, holds."""
    try:
        vm = parse_vm(document)
    except SpecError as error:
        helps(error)
        return False
    assert SCHEMA.is_valid(canonical(document, VmModel, ""))
    assert comes_back(vm)
    assert stands(vm)
    return True


def helps(error: SpecError) -> None:
    """An error says what is wrong and what to do, on a line each; of what is secret it repeats nothing."""
    told = f"{error.path} {error.message} {error.hint}"
    assert (error.message != "", error.hint != "", told.isprintable()) == (True, True, True)
    assert SECRET not in told or not error.path.startswith(("user_data", "keys"))


def comes_back(vm: VmConfig) -> bool:
    """Whether a VM is the same after it was written down."""
    told = dump_vm(vm, secrets=True)
    SCHEMA.validate(told)
    again = parse_vm(strict.load(json.dumps(told).encode(), max_bytes=1 << 24))
    return (again, digest(again), dump_vm(again, secrets=True)) == (vm, digest(vm), told)


def stands(vm: VmConfig) -> bool:
    """Whether a VM can be said in libvirt's, nft's and dnsmasq's words."""
    xml = rendered(vm)
    validate(xml)
    for vpc in vm.vpcs:
        resources = wanted.network(vpc, (vm,), POLICY)
        assert nft.vpc_text(one for one in resources if isinstance(one, PortFilter))
        served = wanted.dhcp(vpc, (vm,), POLICY)
        assert served is not None
        assert dnsmasq.texts(served, f"/run/lvagent/dnsmasq/{vpc}", 3600)
        assert wanted.metadata(vpc, (vm,), POLICY) is not None
    return parse_element(xml) == element(replace(vm, user_data=vm.user_data))


def operation() -> OpenApiSchema:
    """A document of one route, whose body is a spec."""
    body = {"required": True, "content": {"application/json": {"schema": vm_schema()}}}
    responses = {"200": {"description": "fine"}}
    return schemathesis.openapi.from_dict({
        "openapi": "3.1.0",
        "info": {"title": "specs", "version": "1"},
        "paths": {"/spec": {"post": {"requestBody": body, "responses": responses}}},
    })  # fmt: skip


def of_schema(mode: GenerationMode) -> st.SearchStrategy[object]:
    """Documents that the schema allows, or that it does not."""
    return operation()["/spec"]["POST"].as_strategy(generation_mode=mode).map(lambda case: case.body)


def at_bounds() -> Iterator[object]:
    """Documents at each bound of the schema, and beyond."""
    schema = operation()
    for case in iter_coverage_cases(
        operation=schema["/spec"]["POST"],
        generation_modes=list(GenerationMode),
        generate_duplicate_query_parameters=False,
        unexpected_methods=set(),
        generation_config=schema.config.generation,
    ):
        if case.method == "POST":
            yield case.body


@st.composite
def nearly(draw: st.DrawFn) -> object:
    """Right documents with a few values replaced by such as are right elsewhere, or nowhere; some as they are."""
    document: object = draw(documents())
    for _ in range(draw(st.integers(0, 3))):
        document = replaced(draw, document, (*ODD, *MORE))
    return document


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Right documents as text, with bytes put in, left out or changed."""
    raw = bytearray(json.dumps(draw(documents())).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        piece = draw(
            st.sampled_from([b"", b"\0", b"\xff", b'"', b"{", b"]", b",", b"\\", b"1e9", b"NaN", b"\\ud800", b"0"])
        )
        raw[at : at + draw(st.integers(0, 3))] = piece
    return bytes(raw)


def read(raw: bytes) -> bool:
    """Whether a text is accepted."""
    try:
        document = strict.load(raw, max_bytes=1 << 20)
    except SpecError:
        return False
    return holds(document)


KINDS: dict[str, tuple[Callable[[], st.SearchStrategy[object]], bool]] = {
    "right": (documents, True),
    "nearly right": (nearly, True),
    "as the schema allows": (lambda: of_schema(GenerationMode.POSITIVE), False),
    "as the schema does not allow": (lambda: of_schema(GenerationMode.NEGATIVE), False),
}
"""Documents of each kind, and whether some must be accepted."""


def meet(kind: str, count: int, number: int) -> None:
    make, some = KINDS[kind]
    accepted = 0
    for document in drawn(make(), count, number):
        try:
            accepted += holds(document)
        except Exception as error:
            error.add_note(f"--fuzz-seed {number}: {json.dumps(document, default=repr)[:4000]}")
            raise
    assert accepted or not some
    assert accepted < count or kind == "right"


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_a_vm_that_holds_or_an_error_that_helps(kind: str, fuzz_seed: int) -> None:
    meet(kind, CASES, fuzz_seed)


def test_so_is_every_text(fuzz_seed: int) -> None:
    accepted = [read(raw) for raw in drawn(texts(), CASES, fuzz_seed)]
    assert {True, False} <= set(accepted)


def test_so_is_every_document_at_the_bounds_of_the_schema() -> None:
    found = [holds(document) for document in at_bounds()]
    assert len(found) > CASES
    assert False in found


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_so_are_many_more(kind: str, fuzz_seed: int, fuzz_cases: int) -> None:
    for block in range(0, fuzz_cases * 2 or MANY, 1000):
        meet(kind, 1000, fuzz_seed + 1 + block)


@pytest.mark.slow
@pytest.mark.fuzz
def test_so_are_many_more_texts(fuzz_seed: int, fuzz_cases: int) -> None:
    for block in range(0, fuzz_cases * 2 or MANY, 1000):
        assert any(read(raw) for raw in drawn(texts(), 1000, fuzz_seed + 1 + block))

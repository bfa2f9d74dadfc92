"""Values that hold a secret do not show it: what is logged or raised may hold any of them."""

from __future__ import annotations

from dataclasses import replace

from lvagent.metadata.answer import Asker
from lvagent.metadata.http import Answer
from lvagent.plan import wanted
from lvagent.plan.resources import Metadata
from lvagent.render.metadata import document
from tests.unit.render import hostile as words
from tests.unit.render.domain_cases import element
from tests.unit.render.test_injection import POLICY

SECRET = "a-very-secret-word"


def test_no_value_shows_user_data() -> None:
    vm = replace(words.tame_but("benign"), user_data=SECRET.encode())
    guest = wanted.guest(vm, POLICY)
    values = (
        vm,
        element(vm),
        guest,
        Metadata("vpc-aaaaaaaaaa", (("10.0.0.5", guest),)),
        Asker(1, guest),
        document(guest, "/latest/user-data"),
        Answer(200, SECRET.encode()),
    )
    assert guest.user_data == SECRET.encode()
    assert [type(value) for value in values if SECRET in repr(value) or SECRET in str(value)] == []

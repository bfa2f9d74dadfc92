"""From a JSON document to the typed models of ``schema``: spelling of keys, unknown keys, types, bounds.

An error names the place as the caller wrote it (his index in a list) with the field's canonical name, says what is
wrong, and takes the field's description for its hint.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lvagent.errors import SpecError
from lvagent.spec.json import fold, member, quoted
from lvagent.spec.schema import CHILDREN

M = TypeVar("M", bound=BaseModel)
Step = str | int
_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_FORMS = {
    "greater_than_equal": "{value} is too small",
    "less_than_equal": "{value} is too large",
    "string_pattern_mismatch": "{value} does not have the right form",
    "string_too_long": "the string is too long",
    "too_long": "there are too many: {count}",
    "too_short": "is empty",
    "literal_error": "{value} is not known here",
    "string_unicode": "the string is not Unicode text",
}
_SECRET = frozenset({"user_data", "keys"})


def validate(document: object, model: type[M], what: str) -> M:
    """The document as a typed model.

    :param what: what it is an object of, for a hint: "a VM".
    :raise SpecError: an unknown or repeated key, a missing field, a wrong type, a value out of bounds.
    """
    spelled = canonical(document, model, "")
    try:
        return model.model_validate(spelled)
    except ValidationError as error:
        raise _translated(error.errors(include_url=False, include_context=False), model, what) from None


def canonical(value: object, model: type[BaseModel], path: str) -> object:
    """The value with the model's spelling of its keys; what is no object is left for the types to refuse."""
    if not isinstance(value, dict):
        return value
    found: dict[str, object] = {}
    for key, item in value.items():
        name = _names(model).get(fold(key)) if isinstance(key, str) else None
        if name is None:
            raise _unknown(str(key), model, path)
        at = member(path, name)
        if name in found:
            raise SpecError(at, f"{quoted(name)} is there twice", "case and underscores do not count in keys")
        found[name] = _child(item, CHILDREN.get(model, {}).get(name), at)
    return found


def _child(value: object, model: type[BaseModel] | None, path: str) -> object:
    if model is None:
        return value
    if isinstance(value, list):
        return [canonical(item, model, f"{path}[{index}]") for index, item in enumerate(value)]
    return canonical(value, model, path)


@functools.cache
def _names(model: type[BaseModel]) -> dict[str, str]:
    return {fold(name): name for name in model.model_fields}


def _unknown(key: str, model: type[BaseModel], path: str) -> SpecError:
    near = difflib.get_close_matches(fold(key[:40]), _names(model), n=1)
    hint = f"did you mean {_names(model)[near[0]]}?" if near else f"the fields are: {', '.join(model.model_fields)}"
    return SpecError(member(path, key[:40]), f"there is no field {quoted(key, 40)}", hint)


def _translated(errors: Sequence[ErrorDetails], root: type[BaseModel], what: str) -> SpecError:
    """One error of many: the first in the document; of a choice of types, what fits best."""
    first, _ = _place(errors[0]["loc"], root)
    near = [(*_place(error["loc"], root), error) for error in errors]
    near = [entry for entry in near if entry[0][: len(first)] == first]
    deepest = max((steps for steps, _, _ in near), key=len)
    found = [(error, hint) for steps, hint, error in near if steps == deepest]
    error, hint = next((pair for pair in found if pair[0]["type"] not in _TYPES), found[0])
    hint = hint or f"{what} is a JSON object: see GET /openapi.json"
    return SpecError(_path(deepest), _message([entry for entry, _ in found], error), hint)


def _message(same: Sequence[ErrorDetails], error: ErrorDetails) -> str:
    value = error["input"]
    if error["type"] == "missing":
        return "is missing"
    if error["type"] in _TYPES:
        wanted = dict.fromkeys(_TYPES[entry["type"]] for entry in same)
        return f"must be {' or '.join(wanted)}, not {_kind(value, show=not _SECRET.intersection(error['loc'][:1]))}"
    form = _FORMS.get(error["type"], "the value is not allowed here")
    return form.format(value=_shown(value), count=len(value) if isinstance(value, list) else 0)


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else str(value)[:40]


def _kind(value: object, *, show: bool) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the string {quoted(value)}" if show else "a string"
        case int() | float():
            return f"the number {str(value)[:40]}"
        case list():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"


def _place(location: Sequence[Step], root: type[BaseModel]) -> tuple[tuple[Step, ...], str]:
    """The steps to a field, without those by which pydantic names members of a union; and the field's description."""
    model: type[BaseModel] | None = root
    steps: list[Step] = []
    hint = ""
    for step in location:
        if isinstance(step, int):
            steps.append(step)
        elif model and step in model.model_fields:
            hint = model.model_fields[step].description or ""
            steps.append(step)
            model = CHILDREN.get(model, {}).get(step)
    return tuple(steps), hint


def _path(steps: Sequence[Step]) -> str:
    path = ""
    for step in steps:
        path = f"{path}[{step}]" if isinstance(step, int) else member(path, step)
    return path

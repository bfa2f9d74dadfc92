"""Strict JSON."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_examples import json_values

from lvagent.errors import SpecError
from lvagent.spec.json import fold, load, member, quoted

MIB = 1 << 20


def refused(raw: bytes, max_bytes: int = MIB) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        load(raw, max_bytes=max_bytes)
    assert caught.value.hint
    return caught.value.path, caught.value.message


def test_a_document_is_read_as_it_is():
    raw = ' {"a": [1, -2.5, 1e3, true, null, "\u00e4\\ud83d\\ude00"], "b": {"c": {}}} '.encode()
    assert load(raw, max_bytes=100) == {"a": [1, -2.5, 1000.0, True, None, "\u00e4\U0001f600"], "b": {"c": {}}}


def test_types_are_plain():
    value = load(b'{"a": [{"b": 1}]}', max_bytes=100)
    assert [type(value), type(value["a"]), type(value["a"][0])] == [dict, list, dict]


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        (b"", "", "the document is empty"),
        (b" \n", "", "the document is empty"),
        (b"{", "", "this is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        (b'{"a": 1,}', "", "this is not JSON: Expecting property name enclosed in double quotes at line 1, column 9"),
        (b"1 2", "", "this is not JSON: Extra data at line 1, column 3"),
        (b'"a\nb"', "", "this is not JSON: Invalid control character at at line 1, column 3"),
        (b"\xff", "", "byte 0 is not UTF-8"),
        (b'"\xed\xa0\x80"', "", "byte 1 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "", "the document begins with a byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "", "byte 0 is not UTF-8"),
        (b'{"a": [NaN]}', "a[0]", "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "a", "-Infinity is not a JSON number"),
        (b'{"a": 1e400}', "a", "the number is too large"),
        (b'{"a": 123456789012345678901}', "a", "the number has more than 20 digits"),
        (b"-" + b"9" * 5000, "", "the number has more than 20 digits"),
        (b'{"a": ["x\\u0000"]}', "a[0]", "the string has a NUL character"),
        (b'{"a\\u0000": 1}', "", "a key has a NUL character"),
        (b'{"a": "\\ud800"}', "a", "the string has half a surrogate pair"),
        (b'{"\\udc00": 1}', "", "a key has half a surrogate pair"),
        (b'{"n": [{"a": 1, "a": 1}]}', "n[0].a", 'the key "a" is there twice'),
        (b'{"memoryMB": 1, "memory_mb": 1}', "memory_mb", '"memoryMB" and "memory_mb" are the same key'),
        (b'{"a b": 1, "A b": 2}', '["A b"]', '"a b" and "A b" are the same key'),
    ],
)
def test_refused(raw, path, message):
    assert refused(raw) == (path, message)


def test_the_largest_numbers_pass():
    assert load(b"[18446744073709551615, -9223372036854775808]", max_bytes=99) == [2**64 - 1, -(2**63)]


def test_size_is_measured_before_anything_else():
    assert load(b"[1]", max_bytes=3) == [1]
    assert refused(b"[1] ", 3) == ("", "the document has 4 bytes")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth(opening, closing):
    load(opening * 32 + b"1" + closing * 32, max_bytes=MIB)
    assert refused(opening * 33 + b"1" + closing * 33) == ("", "lists and objects are nested 33 deep")
    assert refused(opening * 100_000) == ("", "lists and objects are nested 100000 deep")


def test_brackets_in_strings_are_no_depth():
    assert load(b'["' + b"[" * 100 + b'\\"' + b"{" * 100 + b'"]', max_bytes=MIB) == ["[" * 100 + '"' + "{" * 100]


@pytest.mark.parametrize(
    "raw",
    [b'"' + b'\\"' * (MIB // 2), b'"' + b'\\"' * (MIB // 2) + b"\\", b'"' * MIB, b"[]" * (MIB // 2), b'"' + b"a" * MIB],
)
def test_hostile_input_costs_linear_time(raw):
    begin = time.process_time()
    refused(raw, 4 * MIB)
    assert time.process_time() - begin < 2


@given(json_values())
def test_what_is_strict_is_read_as_any_parser_reads_it(value):
    raw = json.dumps(value).encode()
    try:
        found = load(raw, max_bytes=MIB)
    except SpecError:
        return
    assert found == json.loads(raw)


@given(st.binary(max_size=200) | st.text('[]{}",:\\u0d8e1-tn ', max_size=100).map(str.encode))
def test_any_bytes_give_a_value_or_a_spec_error(raw):
    try:
        found = load(raw, max_bytes=150)
    except SpecError:
        return
    assert found == json.loads(raw)


def test_fold():
    assert {fold(key) for key in ("MemoryMB", "memory_mb", "MEMORY__mb_", "memoryMb")} == {"memorymb"}
    assert fold("\u212aeys") == "\u212aeys"


def test_paths_and_quotes_stay_on_one_line():
    assert member("a[0]", "b") == "a[0].b"
    assert member("", 'x"\n') == '["x\\"\\n"]'
    assert quoted("\u2028ä", 60) == '"\\u2028\\u00e4"'
    assert quoted("a" * 100, 3) == '"aaa..."'

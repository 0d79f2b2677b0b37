"""JSON and YAML from outside: what is read, and what is refused in one line that names file, place and fix."""

import codecs
import json
import os
import subprocess
import sys

import pytest
import yaml

from models.errors import InputError
from models.outside import json_object, parse_json, read_bytes, read_json_object, read_yaml_mapping, yaml_value


def refused(function, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None, True, "é 😀"]}, [], "text", 7, {"a": {"a": {"a": 1}}}, 10**300, -(2**70)]
)
def test_what_is_json_reads_as_the_standard_library_reads_it_with_and_without_a_mark(value):
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert parse_json(text, "f") == parse_json(text.encode(), "f") == value
        assert parse_json(codecs.BOM_UTF8 + text.encode(), "f") == parse_json("\ufeff" + text, "f") == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "f: empty"),
        (b"\xef\xbb\xbf", "f: empty"),
        (b"{", "f: not JSON (Expecting property name enclosed in double quotes, column 2)"),
        (b'{"a": 1}\n{', "f: not JSON (Extra data, line 2, column 1)"),
        (b'{"a": "\xff"}', "f: byte 7 (0xff) is not UTF-8"),
        (b'\xef\xbb\xbf{"a": "\xff"}', "f: byte 10 (0xff) is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "f: UTF-16; save it as UTF-8"),
        (b"[" * 100_000, "f: nested deeper than 100 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "f: nested deeper than 100 levels"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "f: nested deeper than 100 levels"),
        (b'{"a": {"b": [true, ' + b"1" * 5000 + b"]}}", 'f: field "a.b[1]" is a number of thousands of digits'),
        (b'{"a": {"b": [true, ' + b"1" * 400 + b"]}}", 'f: field "a.b[1]" is a number beyond the range'),
        (b'{"a": 1e999}', 'f: field "a" is a number beyond the range'),
        (b'{"a": NaN}', "f: NaN is no JSON"),
        (b'{"a": [-Infinity]}', "f: -Infinity is no JSON"),
        (b'{"b": {"a": 1, "c": 2, "a": 1}}', 'f: field "a" is there twice; delete one'),
        (b'{"a": [{"x": "\\ud800"}]}', 'f: field "a[0].x" holds half a character'),
        (b'{"\\uDFFF": 1}', 'f: field "\\udfff" holds half a character'),
    ],
)
def test_json_that_cannot_be_used_is_refused_with_its_place(content, reason):
    assert refused(parse_json, content, "f").startswith(reason)


def test_what_is_read_can_be_written_again():
    deep = parse_json("[" * 100 + "]" * 100, "f")
    json.dumps(deep, indent=1), yaml.safe_dump(deep), repr(deep)
    assert parse_json('{"a": "\\ud83d\\ude00"}', "f")["a"].encode() == "😀".encode()


def test_a_checkpoint_may_hold_numbers_that_are_not_finite_and_a_caption_half_a_character():
    assert parse_json('{"a": [Infinity, -Infinity, 1e999]}', "f", finite=False) == {"a": [1e999, -1e999, 1e999]}
    assert parse_json('"\\ud800"', "f", half_characters=True) == "\ud800"


def test_an_object_is_asked_for_by_its_type():
    assert refused(json_object, "[]", "f", "write one") == "f: a list, not a JSON object; write one"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "f: key 'c' (line 2) is there twice"),
        ("[" * 5000 + "]" * 5000, "f: nested deeper than 100 levels"),
        ("a: &a [*a]", "f: nested deeper than 100 levels"),
        ("a: 2024-99-99", "f: not YAML (month must be in 1..12)"),
        ("a: " + "1" * 5000, "f: not YAML (Exceeds the limit"),
        ("a: !!python/object/apply:os.getpid []", "f: not YAML (could not determine a constructor"),
        ('a: "\\ud800"', 'f: "a" holds half a character'),
        ("a: [", "f: not YAML (while parsing"),
    ],
)
def test_yaml_that_cannot_be_used_is_refused(text, reason):
    assert refused(yaml_value, text, "f").startswith(reason)


def test_yaml_aliases_are_read_unless_they_multiply():
    assert yaml_value("x: &x {c: 1}\ny: {<<: *x, c: 2}\nz: *x", "f") == {"x": {"c": 1}, "y": {"c": 2}, "z": {"c": 1}}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert "its aliases written out" in refused(yaml_value, bomb, "f")


def test_files_are_read_and_what_is_none_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'{"a": 1}')
    (tmp_path / "a.yaml").write_bytes(codecs.BOM_UTF8 + b"a: 1")
    assert read_json_object(tmp_path / "a.json") == read_yaml_mapping(tmp_path / "a.yaml") == {"a": 1}
    assert refused(read_bytes, tmp_path / "none", "give one") == f"{tmp_path}/none: no such file; give one"
    assert refused(read_bytes, tmp_path).endswith("a folder; give a file")
    assert refused(read_bytes, "/dev/zero").endswith("a device or socket; give a file")
    assert "File name too long" in refused(read_bytes, tmp_path / ("x" * 300))
    assert "null byte" in refused(read_bytes, "a\0b")
    (tmp_path / "list.yaml").write_text("- 1")
    assert "not `key: value` lines" in refused(read_yaml_mapping, tmp_path / "list.yaml")


def test_the_reader_needs_no_torch():
    code = "import models.outside, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0

"""JSON and YAML that come from outside: size, encoding, depth and values are checked here, each with one line to read.

A file is UTF-8, with or without the byte order mark that Windows editors write. Refused, because readers and writers
behind would crash on it or guess: UTF-16, nesting beyond DEEPEST, a key that is twice in an object (JSON's and YAML's
own readers keep the last without a word), numbers beyond a float's range, and half a character (`\\ud800` alone), which
no UTF-8 file can hold. NaN and Infinity are no JSON; `finite=False` takes them where Python's writers put them.
"""

import codecs
import json
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import yaml

from models.errors import InputError

DEEPEST = 100  # levels of nesting: json's and yaml's writers recurse
LARGEST = 2**31  # bytes of a file, or of a line of one, that is read as a whole
LARGEST_NUMBER = sys.float_info.max
MOST_NODES = 100_000  # of a YAML file with its aliases written out
# Only a text with one of these can hold half a character or a number that overflows; a quick look spares a walk.
SUSPICIOUS = re.compile(r"\\u[dD][89a-fA-F]|[eE]\+?\d{3}|\d{309}")
HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
MEND = "mend it, or restore the file"


class DoubledKeyError(ValueError):
    """An object has a key twice."""


def open_outside(path: str | os.PathLike, advice: str = MEND) -> BinaryIO:
    """A file, open to read bytes. Raises InputError if it is missing, no file or pipe, or not to be opened."""
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind) or stat.S_ISFIFO(kind):
            return open(path, "rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {advice}") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {advice}") from None
    raise InputError(f"{path}: a {'folder' if stat.S_ISDIR(kind) else 'device or socket'}; give a file")


def read_bytes(path: str | os.PathLike, advice: str = MEND) -> bytes:
    """All of a file. Raises InputError if it is missing, no file, not to be read, or larger than LARGEST."""
    try:
        with open_outside(path, advice) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    if len(content) > LARGEST:
        raise InputError(f"{path}: more than {LARGEST} bytes; divide the file")
    return content


def text_of(content: bytes, where: str) -> str:
    """UTF-8 text without its byte order mark. Raises InputError naming the first byte that is not UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{where}: UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + (len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
        raise InputError(f"{where}: byte {offset} (0x{content[offset]:02x}) is not UTF-8; save it as UTF-8") from None


def parse_json(
    content: bytes | str, where: str, advice: str = MEND, *, finite: bool = True, half_characters: bool = False
) -> object:
    """The value of a JSON text. Raises InputError starting with `where` (a file, and perhaps a line) and a reason.

    Args:
        content: UTF-8 bytes, or text.
        advice: what to do where the text is no JSON.
        finite: False takes NaN, Infinity and numbers beyond a float's range.
        half_characters: True leaves lone surrogates in; the caller sees to them.
    """
    text = text_of(content, where) if isinstance(content, bytes) else content.removeprefix("\ufeff")
    if not text.strip():
        raise InputError(f"{where}: empty, so not JSON; {advice}")
    with json_errors(lambda: text, where, advice):
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=constants(where, finite))
    if text.count("[") + text.count("{") > DEEPEST or SUSPICIOUS.search(text):
        check_value(value, where, advice, finite=finite, half_characters=half_characters)
    return value


@contextmanager
def json_errors(text: Callable[[], str], where: str, advice: str) -> Iterator[None]:
    """Whatever json's decoder raises of `text()` becomes an InputError."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not JSON ({error.msg}, {place}); {advice}") from None
    except DoubledKeyError as error:
        raise InputError(f"{where}: field {error} is there twice; delete one") from None
    except RecursionError:
        raise InputError(f"{where}: nested deeper than {DEEPEST} levels; {advice}") from None
    except InputError:
        raise
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise InputError(f"{where}: field {_huge_field(text())} is a number of thousands of digits; {advice}") from None


def constants(where: str, finite: bool) -> Callable[[str], float]:
    """json's `parse_constant`: takes NaN and Infinity, or refuses them."""

    def constant(name: str) -> float:
        if finite:
            raise InputError(f"{where}: {name} is no JSON; write null or a number")
        return float(name)

    return constant


def json_object(
    content: bytes | str, where: str, advice: str = MEND, *, finite: bool = True, half_characters: bool = False
) -> dict:
    """`parse_json` of what must be an object."""
    value = parse_json(content, where, advice, finite=finite, half_characters=half_characters)
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}, not a JSON object; {advice}")
    return value


def read_json_file(path: str | os.PathLike, advice: str = MEND, *, finite: bool = True) -> object:
    """The JSON value in a file. Raises InputError."""
    return parse_json(read_bytes(path, advice), str(path), advice, finite=finite)


def read_json_object(path: str | os.PathLike, advice: str = MEND, *, finite: bool = True) -> dict:
    """The JSON object in a file. Raises InputError."""
    return json_object(read_bytes(path, advice), str(path), advice, finite=finite)


def check_value(
    value: object, where: str, advice: str = MEND, *, finite: bool = True, half_characters: bool = False
) -> None:
    """Raise InputError naming the field of a value that is too deep, not finite, or holds half a character."""
    for path, one in _nodes(value, where, advice):
        if isinstance(one, str) and not half_characters and HALF_A_CHARACTER.search(one):
            raise InputError(f"{where}: field {_name(path)} holds half a character (\\ud800 to \\udfff); remove it")
        if finite and isinstance(one, int | float) and not -LARGEST_NUMBER <= one <= LARGEST_NUMBER:
            raise InputError(f"{where}: field {_name(path)} is a number beyond the range of floats; {advice}")


def read_yaml_mapping(path: str | os.PathLike, advice: str = MEND) -> dict:
    """The keys and values of a YAML file. Raises InputError."""
    content = yaml_value(text_of(read_bytes(path, advice), str(path)), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path}: not `key: value` lines; {advice}")
    return content


def yaml_value(text: str, where: str) -> object:
    """The value of a YAML text, by the safe loader. Raises InputError: not YAML, a key twice, too deep, too large."""
    try:
        value = yaml.load(text, _UniqueKeys)
    except DoubledKeyError as error:
        raise InputError(f"{where}: {error} is there twice; delete one") from None
    except RecursionError:
        raise InputError(f"{where}: nested deeper than {DEEPEST} levels; {MEND}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split())[:200]})") from None
    for number, (path, one) in enumerate(_nodes(value, where, MEND)):
        if number > MOST_NODES:
            raise InputError(f"{where}: more than {MOST_NODES} values, its aliases written out; write it without them")
        if isinstance(one, str) and HALF_A_CHARACTER.search(one):
            raise InputError(f"{where}: {_name(path)} holds half a character (\\ud800 to \\udfff); remove it")
    return value


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that is twice in a mapping."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise DoubledKeyError(f"key {key.value!r} (line {key.start_mark.line + 1})")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise DoubledKeyError(json.dumps(name))
    return found


def _huge_field(text: str) -> str:
    """The name of the first field whose number Python refuses."""
    huge = object()
    decoder = json.JSONDecoder(parse_int=lambda digits: huge if len(digits) > 4300 else 0)
    marks, _ = decoder.raw_decode(text.lstrip())
    return next(_name(path) for path, one in _nodes(marks, "", "") if one is huge)


def _nodes(value: object, where: str, advice: str) -> Iterator[tuple[tuple, object]]:
    """(keys and indices to it, node) of all values and all keys, without recursion. InputError beyond DEEPEST."""
    left = [((), value)]
    while left:
        path, one = left.pop()
        yield path, one
        if not isinstance(one, dict | list):
            continue
        if len(path) >= DEEPEST:
            raise InputError(f"{where}: nested deeper than {DEEPEST} levels; {advice}")
        if isinstance(one, dict):
            for key, inner in one.items():
                yield (*path, key), key
                left.append(((*path, key), inner))
        else:
            left += [((*path, index), inner) for index, inner in enumerate(one)]


def _name(path: tuple) -> str:
    """`conversations[0].value`, as people write it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return json.dumps(text.removeprefix("."))[:200]


def is_there(path: str | os.PathLike) -> bool:
    """Whether something is at `path`; no for a name that can be no file's (too long, NUL in it)."""
    try:
        os.stat(path)
    except (OSError, ValueError):
        return False
    return True

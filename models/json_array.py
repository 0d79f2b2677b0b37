"""The elements of a JSON array, one at a time: for files that need not fit into memory."""

import codecs
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from models.errors import InputError
from models.outside import LARGEST, constants, json_errors, open_outside, unique_keys

CHUNK = 1 << 16  # bytes
# Where a text ends too early, json's decoder stops at most so many characters before the end, or in an open string.
NEAR_THE_END = 32
SPACE = " \t\n\r"


def is_array(path: str | os.PathLike, advice: str) -> bool:
    """Whether a file's first character behind white space, and a byte order mark, opens a JSON array."""
    with open_outside(path, advice) as file:
        start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        while not start and (start := file.read(4096)):
            start = start.lstrip()
        return start.startswith(b"[")


def iter_json_array(path: str | os.PathLike, advice: str) -> Iterator[object]:
    """The elements of the JSON array that a file holds, in order, as models/outside.py reads them.

    An element's depth and characters are the caller's to check (`check_value`), who knows what it is called. Raises
    InputError, saying behind which element, where the file is broken.
    """
    with open_outside(path, advice) as file:
        yield from _elements(_Text(path, file), advice)


def _elements(text: "_Text", advice: str) -> Iterator[object]:
    text.skip_space()
    text.take("[")
    index = -1
    while text.skip_space() != "]":
        place = f"broken JSON behind sample {index}" if index >= 0 else "broken JSON before the first sample ends"
        if index >= 0:
            if text.peek() != ",":
                raise text.broken(place, "Expecting ',' delimiter", advice)
            text.take(",")
            text.skip_space()
        value = text.element(f"{text.path}, sample {index + 1}", place, advice)
        index += 1
        yield value
    text.take("]")
    if text.skip_space():
        raise text.broken(f"broken JSON behind sample {index}", "Extra data", advice)


class _Text:
    """A file's text, of which only what is not yet taken is held."""

    def __init__(self, path: str | os.PathLike, file: BinaryIO):
        self.path, self.file = path, file
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.before, self.size, self.ended = "", 0, 0, CHUNK, False

    def more(self) -> bool:
        """Read on, twice as much each time that one element needs more; False at the end of the file."""
        if self.ended:
            return False
        try:
            content = self.file.read(self.size)
            self.ended = not content
            new = self.decode(content, final=self.ended)
        except UnicodeDecodeError as error:
            where = self.file.tell() - len(error.object) + error.start
            raise InputError(f"{self.path}: byte {where} is not UTF-8; save it as UTF-8") from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
        self.before += self.at
        self.text, self.at = self.text[self.at :] + new, 0
        self.size = min(2 * self.size, LARGEST)
        return True

    def peek(self) -> str:
        """The next character; empty at the end."""
        while self.at >= len(self.text) and self.more():
            pass
        return self.text[self.at : self.at + 1]

    def skip_space(self) -> str:
        """The next character that is no white space; empty at the end."""
        while (character := self.peek()) and character in SPACE:
            self.at += 1
        return character

    def take(self, character: str) -> None:
        assert self.peek() == character
        self.at += 1

    def element(self, where: str, place: str, advice: str) -> object:
        decoder = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=constants(where, finite=True))
        self.size = CHUNK
        while True:
            with json_errors(lambda: self.text[self.at :], where, advice):
                try:
                    value, end = decoder.raw_decode(self.text, self.at)
                except json.JSONDecodeError as error:
                    cut = error.pos >= len(self.text) - NEAR_THE_END or error.msg.startswith("Unterminated string")
                    if cut and self.more():
                        continue
                    self.at = error.pos
                    raise self.broken(place, error.msg, advice) from None
            if end == len(self.text) and self.more():  # a number may go on
                continue
            self.at = end
            return value

    def broken(self, place: str, reason: str, advice: str) -> InputError:
        return InputError(f"{self.path}: {place}, character {self.before + self.at} ({reason}); {advice}")

"""A JSON array read piece by piece is what the standard library reads as a whole, wherever the pieces end."""

import json
import random

import pytest

from models import json_array
from models.errors import InputError
from models.json_array import is_array, iter_json_array


def made(rng: random.Random, depth: int = 0):
    kinds = [None, True, False, 0, -17, 1.5e-7, 10**12, "", 'a "b" \\ [é😀\n', "x" * 90]
    if depth < 3 and rng.random() < 0.6:
        several = [made(rng, depth + 1) for _ in range(rng.randrange(4))]
        return several if rng.random() < 0.5 else {f"key {number}": one for number, one in enumerate(several)}
    return rng.choice(kinds)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 16])
def test_elements_are_those_of_the_standard_library(seed, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    rng, path = random.Random(seed), tmp_path / "a.json"
    values = [made(rng) for _ in range(rng.randrange(12))]
    text = json.dumps(values, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5)
    path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + f" \n{text}\n ".encode())
    assert is_array(path, "")
    assert list(iter_json_array(path, "")) == json.loads(text)


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])
@pytest.mark.parametrize(
    ("content", "good", "message"),
    [
        (b"[1, 2", 2, "behind sample 1, character 5"),
        (b"[1, 2 3]", 2, "behind sample 1, character 6 .Expecting ',' delimiter"),
        (b"[1, 2,]", 2, "behind sample 1, character 6 .Expecting value"),
        (b"[1] [2]", 1, "behind sample 0, character 4 .Extra data"),
        (b'[{"a": 1}, {"a": "\xff"}]', 1, "byte 18 is not UTF-8"),
        (b'["' + b"a" * 100, 0, "before the first sample ends, character 1 .Unterminated string"),
        (b"[1, NaN]", 1, "sample 1: NaN is no JSON"),
        (b'[{"a": 1}, {"a": 1, "a": 2}]', 1, 'sample 1: field "a" is there twice'),
        (b"[" * 5000, 0, "sample 0: nested deeper than 100 levels"),
    ],
)
def test_what_is_whole_comes_before_the_error(chunk, content, good, message, tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    (tmp_path / "a.json").write_bytes(content)
    elements, found = iter_json_array(tmp_path / "a.json", "restore it"), []

    def take_all():
        found.extend(iter(lambda: next(elements), ...))

    with pytest.raises(InputError, match=f"a.json[:,] (broken JSON )?{message}"):
        take_all()
    # An extend keeps what it was given; what stands in a piece with a byte that is no text is not given.
    assert len(found) == good or (b"\xff" in content and chunk > 5)


def test_an_error_early_in_a_long_file_is_told_without_reading_it_all(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK", 100)
    (tmp_path / "a.json").write_text("[{nonsense: 1}, " + "1, " * 100_000 + "1]")
    read = []
    monkeypatch.setattr(json_array._Text, "more", lambda self, more=json_array._Text.more: read.append(1) or more(self))
    with pytest.raises(InputError, match="character 2 .Expecting property name"):
        list(iter_json_array(tmp_path / "a.json", ""))
    assert len(read) < 5

"""A uniform sample of a source of any size: one pass, the captions of the sample in memory, pictures on disk.

Every item has a random number, the hash of the seed and of its key, and the sample is the usable items with
the smallest numbers. So it depends on nothing but the seed and the source, and an item is read and decoded
only if its number beats those held so far: about n * (1 + ln(N / n)) of N items for a sample of n.
"""

import hashlib
import heapq
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.canvas import PictureError, decode
from data.files import write_atomic, writing
from data.sources import Item, Source
from models.outside import read_json_object

CHECKPOINT_SECONDS = 30


class Picture(NamedTuple):
    """One sampled pair: the caption, the SHA-256 of the image file and the name of its copy in the pool."""

    caption: str
    sha256: str
    file: str


class Sample(NamedTuple):
    """Sampled pairs in random order; how many `items` were met, `candidates` read, `skipped` by reason.

    Only candidates are checked, so `skipped` counts the unusable ones among these, not all of the source.
    """

    pictures: list[Picture]
    items: int
    candidates: int
    skipped: dict[str, int]


def take_sample(source: Source, count: int, seed: int, min_side: int, folder: Path) -> Sample:
    """Up to `count` usable items of `source`, uniformly without replacement; fewer only if it has no more.

    Usable: the picture can be decoded, its shorter side has at least `min_side` px, and the caption is not
    blank (runs of white space become one space). The first m of n sampled items are the sample of m items of
    that seed.

    `folder` takes the picture files (`folder/pool`) and the state of the pass (`folder/sample.json`, written
    every half minute and at the end): a call after a kill goes on from there.
    """
    pool, state_file = folder / "pool", folder / "sample.json"
    pool.mkdir(parents=True, exist_ok=True)
    state = {"part": 0, "item": 0, "items": 0, "candidates": 0, "skipped": {}, "pictures": {}}
    if state_file.exists():
        state = read_json_object(state_file, "start anew with --overwrite")
    skipped = state["skipped"]
    held = {number: Picture(*picture) for number, picture in state["pictures"].items()}
    largest_first = [(-int(number, 16), number) for number in held]
    heapq.heapify(largest_first)
    dropped: list[str] = []  # files that the last written state may still name

    def write_state(part: int, item: int) -> None:
        state.update(part=part, item=item, pictures=held)
        write_atomic(state_file, json.dumps(state))
        while dropped:
            (pool / dropped.pop()).unlink(missing_ok=True)

    written = time.monotonic()
    for part, index, item in _remaining(source, state["part"], state["item"]):
        if time.monotonic() - written > CHECKPOINT_SECONDS:
            write_state(part, index)
            written = time.monotonic()
        state["items"] += 1
        number = hashlib.sha256(f"{seed}\n{item.key}".encode(errors="surrogateescape")).hexdigest()
        if len(held) == count and int(number, 16) >= -largest_first[0][0]:
            continue
        state["candidates"] += 1
        content, caption, problem = _check(item, min_side)
        if problem:
            skipped[problem] = skipped.get(problem, 0) + 1
            continue
        if len(held) == count:
            _, last = heapq.heappop(largest_first)
            dropped.append(held.pop(last).file)
        with writing(pool / number, kept="the build goes on when the same command is given again"):
            (pool / number).write_bytes(content)
        held[number] = Picture(caption, hashlib.sha256(content).hexdigest(), number)
        heapq.heappush(largest_first, (-int(number, 16), number))
    write_state(len(source.parts), 0)
    pictures = [held[number] for number in sorted(held)]
    return Sample(pictures, state["items"], state["candidates"], dict(sorted(skipped.items())))


def _remaining(source: Source, part: int, item: int) -> Iterator[tuple[int, int, Item]]:
    """(part, index in the part, item) from item `item` of part `part` on."""
    with tqdm(desc="sampling", unit=" items", disable=part == len(source.parts)) as bar:
        for number in range(part, len(source.parts)):
            bar.set_postfix_str(f"part {number + 1} of {len(source.parts)}", refresh=False)
            for index, entry in enumerate(source.parts[number]()):
                bar.update()
                if number > part or index >= item:
                    yield number, index, entry


def _check(item: Item, min_side: int) -> tuple[bytes | None, str, str | None]:
    """Content, caption and what is wrong: None or one of no_image, no_caption, undecodable, too_small."""
    content, caption = item.load()
    # JSON may hold half a surrogate pair, which no file can.
    caption = " ".join((caption or "").encode(errors="ignore").decode().split())
    if content is None:
        return None, caption, "no_image"
    if not caption:
        return content, caption, "no_caption"
    try:
        decode(content, side=1, min_side=min_side)
    except PictureError as error:
        return content, caption, str(error)
    return content, caption, None


def random_order(seed: str, count: int) -> Iterator[int]:
    """0 to count - 1, each once, in a random order that depends on `seed` only.

    Lazy: the cost is that of what is taken, whatever `count` is.
    """
    moved: dict[int, int] = {}
    for left in range(count, 0, -1):
        digest = hashlib.sha256(f"{seed}\n{left}".encode()).digest()
        pick = int.from_bytes(digest) % left
        yield moved.get(pick, pick)
        moved[pick] = moved.pop(left - 1, left - 1)

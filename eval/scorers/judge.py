"""A local program as the judge of replies, and the cache of its verdicts.

The program is started once. It reads one JSON object a line (`question`, `gt_answer_details`, `prediction`) and writes
one line for each, in their order: correct, incorrect or unclear. As the official script reads its judge, a line that
holds "incorrect" is that, and then one that holds "correct".

Verdicts are cached by content: the hash of the command, the question, the gold detail and the reply. Each is on the
disk before the next one is read, so that a run that was killed asks only what is left.
"""

import hashlib
import json
import shlex
import subprocess
import threading
from pathlib import Path
from typing import IO

from tqdm import tqdm

from data.files import write_atomic
from eval import journal
from models.errors import InputError

WORDS = ("incorrect", "correct", "unclear")
FIELDS = ("question", "gt_answer_details", "prediction")


def cache_path(answers: str) -> Path:
    """Where the verdicts on an answers file are kept."""
    return Path(f"{answers}.judge.jsonl")


def judge(command: str, rows: list[dict], cache: Path) -> tuple[list[str], int]:
    """The word on each row, and how many were not in the cache.

    Raises InputError for rows without the fields, and for a program that does not start, fails, or writes anything else
    than one word for each line; verdicts before that are kept.
    """
    for row in rows:
        for field in FIELDS:
            if not isinstance(row.get(field), str):
                raise InputError(f"id {row['id']}: field `{field}` is missing or no text; --judge_command needs it")
    keys = [_key(command, row) for row in rows]
    with journal.only_writer(cache):
        known = _read_cache(cache)
        left = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        if left:
            _ask(command, left, cache, known)
    return [known[key] for key in keys], len(left)


def _ask(command: str, left: dict[str, dict], cache: Path, known: dict[str, str]) -> None:
    """Ask the program all of `left`, and put its words into `known` and the cache."""
    program = _start(command)
    questions = [json.dumps({field: row[field] for field in FIELDS}) + "\n" for row in left.values()]
    threading.Thread(target=_write, args=(program.stdin, questions), daemon=True).start()
    answered = 0
    try:
        with journal.open_to_append(cache) as file:
            for key, line in tqdm(zip(left, program.stdout, strict=False), "judge", len(left), unit="reply"):
                known[key] = _read_word(line, left[key]["id"])
                journal.append_rows(file, [{"key": key, "verdict": known[key]}])
                answered += 1
        if answered < len(left):
            so_far = f"after {answered} of {len(left)} replies; what it said is kept"
            raise InputError(f"--judge_command: ended with status {program.wait()} {so_far}")
        if program.stdout.readline():
            _forget(cache, left)
            raise InputError(f"--judge_command: wrote more than the {len(left)} lines it was asked for; one line each")
        program.wait()
    finally:
        program.kill()  # nothing, where it has ended
        program.stdout.close()
        program.wait()


def _start(command: str) -> subprocess.Popen:
    try:
        words, pipe = shlex.split(command), subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", errors="replace")
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"--judge_command: {command!r} cannot be started ({error})") from None


def _read_word(line: str, of: str | int) -> str:
    word = next((word for word in WORDS if word in line.lower()), None)
    if word is None:
        raise InputError(
            f"--judge_command: wrote {line.strip()[:60]!r} on id {of}; a line with correct, incorrect or unclear is "
            "expected"
        )
    return word


def _write(stdin: IO[str], questions: list[str]) -> None:
    try:
        with stdin:
            stdin.writelines(questions)
    except OSError:  # it has ended; its missing lines tell
        return


def _key(command: str, row: dict) -> str:
    content = json.dumps([command, *(row[field] for field in FIELDS)])
    return hashlib.sha256(content.encode()).hexdigest()


def _read_cache(cache: Path) -> dict[str, str]:
    try:
        rows, _ = journal.read_rows(cache, is_part=True)
        return {row["key"]: WORDS[WORDS.index(row["verdict"])] for row in rows}
    except (InputError, KeyError, ValueError):
        raise InputError(f"{cache}: not the verdicts of a judge; delete it, or mend its lines") from None


def _forget(cache: Path, left: dict[str, dict]) -> None:
    """Take out what was read of a program whose lines do not fit the questions."""
    rows, _ = journal.read_rows(cache, is_part=True)
    write_atomic(cache, journal.to_lines([row for row in rows if row["key"] not in left]))

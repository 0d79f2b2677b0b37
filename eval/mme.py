"""Ask a model the questions of MME: two yes/no questions a picture, in fourteen subtasks.

    python eval/mme.py --model_path checkpoints/llava-1.5-7b-hf --path_to_mme MME_Benchmark_release_version \\
        --answers_file results/mme.jsonl

--path_to_mme is what the official zip unpacks to (a folder for each subtask, its pictures and texts flat, or in
images/ and questions_answers_YN/), or the paper's folder (`<subtask>_data.json` beside the pictures). The replies also
go, tab-separated, into `<answers>.eval_tool/`, for the official calculation.py. eval/scorers/mme.py has the rules.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from data.files import write_atomic
from eval.harness import Benchmark, Run, run
from eval.picture_folder import PictureFolder, image_part
from eval.prompts import add_prompt, user_turn
from eval.records import BadRecord, Records, build_items, json_records
from eval.scored_run import print_score
from eval.scorers.mme import ROWS
from models.errors import InputError, run_script

PROMPTS = {
    "official": "the question as it is, which ends with a request for yes or no",
    "lmms": "that request replaced by one for a single word or phrase, as lmms-eval and LLaVA do",
}
REQUEST = "Please answer yes or no."
SHORT = "\nAnswer the question using a single word or phrase."
PICTURES = (".jpg", ".png", ".jpeg")
FIELDS = {"image": str, "question": str, "answer": str}
KEY = ("subtask", "id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, which of them, and how they are put."""
    parser.add_argument("--path_to_mme", type=Path, required=True, help="folder of the subtasks")
    parser.add_argument(
        "--subtasks",
        nargs="+",
        choices=ROWS,
        default=list(ROWS),
        metavar="SUBTASK",
        help=f"of {', '.join(ROWS)} (default: all)",
    )
    add_prompt(parser, PROMPTS)


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions of the subtasks, pairs side by side. Raises InputError naming folder, file and line."""
    folder = PictureFolder(release(args), option="path_to_mme")
    items = [item for subtask in dict.fromkeys(args.subtasks) for item in subtask_items(folder, subtask)]
    folder.check_any((item["file"] for item in items), "its list of questions")
    return items


def release(args: argparse.Namespace) -> Path:
    """The folder that the subtasks lie in."""
    inner = args.path_to_mme / "MME_Benchmark"
    return inner if inner.is_dir() else args.path_to_mme


def subtask_items(folder: PictureFolder, subtask: str) -> list[dict]:
    """The questions of one subtask."""
    asked = {}

    def item_of(record: dict) -> dict:
        if record["answer"].strip().lower() not in ("yes", "no"):
            raise BadRecord(f"the answer is {record['answer']!r}; Yes or No is expected")
        folder.check(record["file"])
        asked[record["image"]] = number = asked.get(record["image"], 0) + 1
        item = {"id": f"{record['image']}_{number}", "subtask": subtask}
        return item | {field: record[field].strip() for field in FIELDS} | {"file": record["file"]}

    return build_items(subtask_records(folder.path, subtask), FIELDS, item_of, KEY)


def subtask_records(root: Path, subtask: str) -> Records:
    """The records of a subtask, with `image` its picture's name and `file` where that lies below `root`."""
    listing = root / f"{subtask}_data.json"
    if listing.is_file():
        for where, record in json_records(listing):
            yield where, record | {"file": record.get("image")}
    elif (root / subtask).is_dir():
        for where, record, picture in folder_records(root / subtask):
            yield where, record | {"file": picture.relative_to(root).as_posix()}
    else:
        raise InputError(f"--path_to_mme {root}: no folder {subtask} and no {listing.name}; name others by --subtasks")


def folder_records(folder: Path) -> Iterator[tuple[str, dict, Path]]:
    """Two records of each text of a subtask's folder, with the picture, in the order of its name."""
    files = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    pictures = {path.stem: path for path in files if path.suffix.lower() in PICTURES}
    texts = sorted((path for path in files if path.suffix == ".txt"), key=lambda path: path.stem)
    if not texts:
        raise InputError(f"{folder}: no .txt with questions; unpack the official zip again")
    for text in texts:
        if text.stem not in pictures:
            raise InputError(f"{text}: no picture {text.stem}.jpg or .png below {folder}")
        picture = pictures[text.stem]
        try:
            lines = [line for line in text.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{text}: cannot be read as UTF-8 text ({error}); unpack the official zip again") from None
        if len(lines) != 2:
            raise InputError(
                f"{text}: {len(lines)} lines; two questions a picture are expected; unpack the official zip again"
            )
        for number, line in enumerate(lines, start=1):
            question, tab, answer = line.rpartition("\t")
            if not tab:
                raise InputError(f"{text}, line {number}: no tab between question and answer")
            yield f"{text}, line {number}", {"image": picture.name, "question": question, "answer": answer}, picture


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question about its picture."""
    text = item["question"]
    if args.prompt == "lmms":
        text = text.replace(REQUEST, "").strip() + SHORT
    return user_turn([image_part(release(args), item["file"])], text)


def write_eval_tool_files(this: Run) -> None:
    """One line a reply in the files that the official calculation.py reads, pairs side by side."""
    folder = this.args.answers_file.with_name(f"{this.args.answers_file.name}.eval_tool")
    rows = this.rows()
    for subtask in dict.fromkeys(item["subtask"] for item in this.items):
        lines = []
        for item in this.items:
            if item["subtask"] == subtask:
                # A line break or a tab within the reply would break the line.
                reply = " ".join(rows[this.key(item)].get("prediction", "").split())
                lines.append("\t".join((item["image"], item["question"], item["answer"], reply)) + "\n")
        write_atomic(folder / f"{subtask}.txt", "".join(lines))


def finish(this: Run) -> None:
    """The official score, and the files of the official tool."""
    write_eval_tool_files(this)
    print_score(this)


BENCHMARK = Benchmark(
    "mme",
    add_arguments,
    load_items,
    messages,
    KEY,
    strips=True,
    image_aspect_ratio="pad",
    afterwards=finish,
)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)

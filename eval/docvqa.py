"""Ask a model DocVQA's questions about scanned documents.

    python eval/docvqa.py --model_path checkpoints/Qwen2.5-VL-7B-Instruct --dataset_path lmms-lab/DocVQA \\
        --answers_file results/docvqa.jsonl

The questions are the hub's table, or an official file (--eval_file val_v1.0_withQT.json) beside the folder that holds
`documents` (--img_path). The test split has no public answers: what the server takes is written beside the answers
file, as `<answers>.submission.json`. eval/scorers/docvqa.py has the scoring rules.
"""

import argparse

from data.files import write_json
from eval import question_source, tables
from eval.harness import Benchmark, Run, run
from eval.picture_folder import PictureFolder
from eval.prompts import user_turn
from eval.records import BadRecord, build_items, json_records
from eval.scored_run import print_score
from eval.table_source import Table
from models.errors import run_script

REQUEST = "\nAnswer the question using a single word or phrase."  # lmms-eval's; DocVQA has none of its own
FIELDS = {"questionId": (str, int), "question": str}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the questions are, and which."""
    question_source.add_arguments(
        parser, "val_v1.0_withQT.json or test_v1.0.json", "folder that holds documents/", "lmms-lab/DocVQA"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="which it is; test has no answers (default: %(default)s)",
    )


def load_items(args: argparse.Namespace) -> list[dict]:
    """The questions in the order of their rows. Raises InputError naming the place."""
    folder = None if question_source.comes_as_table(args) else PictureFolder(args.img_path)
    is_test = args.split == "test"

    def item_of(record: dict) -> dict:
        item = {"id": record["questionId"], "text": record["question"] + REQUEST}
        answers = record.get("answers")
        if answers or not is_test:
            if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
                raise BadRecord("field `answers` is not a list of texts; of questions without any, give --split test")
            item["answer"] = answers
        return item | question_source.picture_of(record, folder)

    if folder is None:
        tables.require_pictures(table(args))
        records = tables.table_records(table(args), (*FIELDS, "answers"))
        return build_items(records, FIELDS, item_of, ("id",))
    items = build_items(json_records(args.eval_file, inside="data"), FIELDS | {"image": str}, item_of, ("id",))
    folder.check_any((item["image"] for item in items), args.eval_file)
    return items


def table(args: argparse.Namespace) -> Table | None:
    """The hub's table, if the questions come from it."""
    return tables.table_of(args, args.split, "DocVQA")


def messages(item: dict, args: argparse.Namespace) -> list[dict]:
    """One question about its document."""
    return user_turn([question_source.item_image_part(item, args, table(args))], item["text"])


def finish(this: Run) -> None:
    """The score; or, of questions without answers, the file that the server takes."""
    if any("answer" in item for item in this.items):
        return print_score(this)
    rows = this.rows()
    answers = [(item["id"], rows[this.key(item)].get("prediction")) for item in this.items]
    if any(answer is None for _, answer in answers):
        return print("docvqa: nothing is written for the server while replies are missing")
    path = this.args.answers_file.with_name(f"{this.args.answers_file.name}.submission.json")
    # The server takes whole numbers; the hub's table has them as texts.
    numbered = [int(number) if str(number).isdigit() else number for number, _ in answers]
    write_json(
        path, [{"questionId": number, "answer": answer} for number, (_, answer) in zip(numbered, answers, strict=True)]
    )
    cut = f" (the first {len(answers)} questions alone: --limit)" if this.args.limit else ""
    print(f"docvqa: the split has no public answers; for the server: {path}{cut}")


BENCHMARK = Benchmark("docvqa", add_arguments, load_items, messages, afterwards=finish, tables=table)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run(BENCHMARK, argv)


if __name__ == "__main__":
    run_script(main)

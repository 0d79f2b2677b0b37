"""Score files that benchmarks publish with their scorers, and compare with what those scorers make of them.

    python tests/score_published.py --lavin eval_tool/LaVIN --gpt4o MMMU/mmmu-pro/output \
        --hallusionbench HallusionBench/HallusionBench.json

Not a part of the tests: the files are the benchmarks' own. `eval_tool.zip` is in the branch Evaluation of
BradyFU/Awesome-Multimodal-Large-Language-Models, the others are in MMMU-Benchmark/MMMU and tianyi-lab/HallusionBench.
Exit status 1 if anything differs.
"""

import argparse
import ast
import contextlib
import io
import json
import tempfile
from pathlib import Path

from data.files import numbered_json_lines
from eval.score import main as score
from models.errors import ArgumentParser, InputError, run_script

VARIANTS = ("standard (10 options)", "vision")
# (mode, variant) -> accuracy of GPT-4o as the authors scored it, random letters for unreadable replies among them
GPT4O = {
    ("direct", VARIANTS[0]): 40.12,
    ("direct", VARIANTS[1]): 42.43,
    ("cot", VARIANTS[0]): 55.03,
    ("cot", VARIANTS[1]): 50.06,
}
# The same replies read by lmms-eval's parser of the standard variant, which guesses as well.
GPT4O_LMMS_PARSER = {VARIANTS[0]: 50.9, VARIANTS[1]: 29.7}


def check_lavin(folder: Path) -> list[tuple]:
    """MME: LaVIN's replies in the official tool's form, one file a subtask."""
    rows = []
    for file in sorted(folder.glob("*.txt")):
        for number, line in enumerate(file.read_text().splitlines()):
            image, _, gold, reply = line.split("\t")
            fields = {"subtask": file.stem, "image": image, "answer": gold, "prediction": reply}
            rows.append({"id": number} | fields)
    found, _ = numbers("mme", rows, "official")
    return [("MME, perception", 963.61, found["perception"]), ("MME, cognition", 249.64, found["cognition"])]


def check_gpt4o(folder: Path) -> list[tuple]:
    """MMMU-Pro: the letters that the official parser has stored beside GPT-4o's replies, but for random ones."""
    lines = []
    for mode in ("direct", "cot"):
        for variant in VARIANTS:
            name = variant.replace(" (", "(") if variant != "vision" else variant
            rows, stored = [], []
            for _, row in numbered_json_lines(folder / f"gpt-4o_{name}_{mode}.jsonl"):
                options = ast.literal_eval(str(row["options"]))
                reply = row["response"] if isinstance(row["response"], str) else ""
                fields = {"variant": variant, "options": options, "answer": row["answer"], "prediction": reply}
                rows.append({"id": row["id"]} | fields)
                stored.append(row["pred_indexs"])
            _, scored = numbers("mmmu_pro", rows, "official")
            differing = sum(
                row["parsed"] != letter and not row.get("guessed") for row, letter in zip(scored, stored, strict=True)
            )
            lines.append((f"MMMU-Pro, {variant}, {mode}: letters that differ", 0, differing))
            # With what they drew in place of what we draw, the letters are theirs, and so must be the figure.
            theirs = [
                row["parsed"] if not row.get("guessed") else letter for row, letter in zip(scored, stored, strict=True)
            ]
            right = [letter == row["answer"] for letter, row in zip(theirs, rows, strict=True)]
            lines.append((f"MMMU-Pro, {variant}, {mode}", GPT4O[mode, variant], 100 * sum(right) / len(right)))
            if mode == "cot":
                standard = [row | {"variant": VARIANTS[0]} for row in rows]
                found, scored = numbers("mmmu_pro", standard, "lmms")
                guessed = 100 * sum(bool(row.get("guessed")) for row in scored) / len(scored)
                what = f"MMMU-Pro, {variant}, {mode}, lmms-eval's parser, {guessed:.1f}% of it guesses"
                lines.append((what, GPT4O_LMMS_PARSER[variant], found["standard_10"], guessed))
            if variant == "vision":
                raw = numbers("mmmu_pro", rows, "lmms")[0]["vision"]
                lines.append((f"MMMU-Pro, {variant}, {mode}, lmms", {"direct": 0.35, "cot": 0.0}[mode], raw))
    return lines


def check_hallusionbench(file: Path) -> list[tuple]:
    """HallusionBench: always no, on the rows with a figure."""
    rows = [
        row | {"id": number, "answer": row["gt_answer"], "prediction": "No"}
        for number, row in enumerate(json.loads(file.read_text()))
    ]
    found, scored = numbers("hallusionbench", rows, "vlmevalkit")
    return [("HallusionBench, rows with a figure", 951, len(scored)), ("HallusionBench, no", 57.83, found["aAcc"])]


def numbers(benchmark: str, rows: list[dict], scorer: str) -> tuple[dict, list[dict]]:
    """name -> value, and the rows with their verdicts, of eval/score.py; it must find the files whole."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        answers, output, per_row = (Path(folder) / name for name in ("a.jsonl", "s.json", "rows.jsonl"))
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = ["--answers_file", str(answers), "--output_json", str(output), "--per_row", str(per_row)]
        score([benchmark, *files, "--scorer", scorer, "--bootstrap", "0"])
        (run,) = json.loads(output.read_text())["runs"]
        scored = [row for _, row in numbered_json_lines(per_row)]
    return {name: entry["value"] for name, entry in run["numbers"].items()}, scored


def main(argv: list[str] | None = None) -> int:
    checks = {"lavin": check_lavin, "gpt4o": check_gpt4o, "hallusionbench": check_hallusionbench}
    parser = ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    for name, check in checks.items():
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=check.__doc__)
    arguments: argparse.Namespace = parser.parse_args(argv)
    lines = [line for name, check in checks.items() if (path := getattr(arguments, name)) for line in check(path)]
    if not lines:
        raise InputError("nothing to score; give --lavin, --gpt4o or --hallusionbench")
    # A fourth value is how far guesses, which are drawn anew, can move the number.
    wrong = [line for line in lines if (abs(line[2] - line[1]) > line[3] if line[3:] else round(line[2], 2) != line[1])]
    for what, published, ours, *_ in lines:
        print(f"{what}: published {published}, ours {round(ours, 2)}")
    print(f"{len(wrong)} of {len(lines)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    run_script(main)

"""Score the saved answers of a benchmark: its official rule, or lmms-eval's, or VLMEvalKit's. No model, no pictures.

    python eval/score.py scienceqa --answers_file results/off.jsonl --answers_file results/on.jsonl --labels off on \
        --scorer official --output_json results/scores.json

eval/scorers/<benchmark>.py says which keys the answers need, what each scorer reads and what the numbers are. All rows
must be there, each once (eval/scorers/answers_file.py says how that is told). The JSON file holds all that is printed:
the settings; per run its counts, `numbers` (name -> value, low, high: in percent, with 95% bootstrap intervals),
`remarks` and what makes it `partial`; for two runs `comparison`, the same for second - first, with McNemar's tests.
"""

import argparse

from data.files import write_atomic, write_json
from eval.fields import item_key
from eval.journal import to_lines
from eval.result_files import check_inputs, name_runs
from eval.scorers import (
    chartqa,
    crpe,
    docvqa,
    hallusionbench,
    mme,
    mmmu_pro,
    pope,
    refcoco,
    scienceqa,
    textvqa,
)
from eval.scorers.answers_file import Answers, pair, read_answers
from eval.scorers.judge import cache_path, judge
from eval.scorers.measure import clusters_of, compare, measure, score_rows
from eval.scorers.report import report
from eval.scorers.rules import Context, Scored
from models.errors import ArgumentParser, InputError, run_script

BENCHMARKS = {
    "scienceqa": scienceqa.RULES,
    "crpe": crpe.RULES,
    "hallusionbench": hallusionbench.RULES,
    "mmmu_pro": mmmu_pro.RULES,
    "mme": mme.RULES,
    "pope": pope.RULES,
    "textvqa": textvqa.RULES,
    "chartqa": chartqa.RULES,
    "docvqa": docvqa.RULES,
    "refcoco": refcoco.RULES,
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("benchmark", choices=BENCHMARKS)
    add(
        "--answers_file",
        action="append",
        required=True,
        metavar="FILE",
        help="answers (JSON lines); give it twice to compare two runs over the same questions",
    )
    add("--scorer", default="official", metavar="NAME", help="official, lmms or vlmevalkit (default: %(default)s)")
    add("--output_json", metavar="FILE", help="all numbers, as JSON (default: none)")
    add(
        "--per_row",
        action="append",
        default=[],
        metavar="FILE",
        help="each row with what was read (`parsed`) and its verdict (`correct`), as JSON lines; one per answers file",
    )
    add("--allow_partial", action="store_true", help="score a file that lacks rows; the result says that it is partial")
    add(
        "--judge_command",
        metavar="COMMAND",
        help="hallusionbench: a local program that reads JSON lines (question, gt_answer_details, prediction) and "
        "writes correct, incorrect or unclear for each; its verdicts are kept in <answers_file>.judge.jsonl",
    )
    add("--labels", nargs="+", metavar="LABEL", help="a name per answers file (default: file names)")
    add("--bootstrap", type=int, default=2000, metavar="N", help="resamples, 0: no intervals (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the resamples, and of what a rule draws (default: %(default)s)")
    arguments = parser.parse_args(argv)
    _check(arguments)
    return arguments


def _check(arguments: argparse.Namespace) -> None:
    files, scorers = arguments.answers_file, BENCHMARKS[arguments.benchmark].scorers
    check_inputs(files, "answers_file")
    arguments.labels = name_runs(arguments.labels, files, "answers")
    if arguments.scorer not in scorers:
        raise InputError(f"--scorer: {arguments.scorer!r}; {arguments.benchmark} has {', '.join(scorers)}")
    if arguments.per_row and len(arguments.per_row) != len(files):
        raise InputError(f"--per_row: {len(arguments.per_row)} files for {len(files)} answers files; give one each")
    judged = arguments.benchmark == "hallusionbench" and arguments.scorer in hallusionbench.JUDGED
    if arguments.judge_command is not None and not judged:
        names = " and ".join(hallusionbench.JUDGED)
        raise InputError(f"--judge_command: only hallusionbench has a judge, in the scorers {names}; leave it out")


def score(answers: Answers, clusters: list[int], arguments: argparse.Namespace) -> list[Scored]:
    """Each row with its verdict, a judge asked first where there is one."""
    rules, judged = BENCHMARKS[arguments.benchmark], None
    if arguments.judge_command is not None:
        words, new = judge(arguments.judge_command, answers.rows, cache_path(answers.path))
        judged = {item_key(row, rules.key): word for row, word in zip(answers.rows, words, strict=True)}
        answers.remarks.append(f"verdicts of the judge: {new} new, {len(words) - new} from its cache")
    return score_rows(answers, clusters, rules, arguments.scorer, Context(arguments.seed, judged))


def write_rows(path: str, scored: list[Scored]) -> None:
    """Write each row with `parsed`, `correct` and what else its rule has noted."""
    rows = [
        row.row | {"parsed": row.verdict.parsed, "correct": row.verdict.correct} | row.verdict.extra for row in scored
    ]
    write_atomic(path, to_lines(rows))


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    benchmark, scorer, rules = arguments.benchmark, arguments.scorer, BENCHMARKS[arguments.benchmark]
    files = [read_answers(file, benchmark, rules, scorer, arguments.allow_partial) for file in arguments.answers_file]
    if len(files) == 2:
        files = pair(*files, rules)
    clusters = clusters_of(files[0].rows, rules)  # of both: pairs of rows are drawn together
    runs = []
    for answers, label in zip(files, arguments.labels, strict=True):
        scored = score(answers, clusters, arguments)
        runs.append(measure(answers, scored, label, rules, scorer, arguments.bootstrap, arguments.seed))
    comparison = compare(*runs, rules) if len(runs) == 2 else None
    summaries = [run.summary for run in runs]
    if arguments.output_json:
        settings = {name: getattr(arguments, name) for name in ("benchmark", "scorer", "bootstrap", "seed")}
        judged = {"judge_command": arguments.judge_command}
        write_json(arguments.output_json, settings | judged | {"runs": summaries, "comparison": comparison})
    for path, run in zip(arguments.per_row, runs, strict=bool(arguments.per_row)):
        write_rows(path, run.scored)
    print(f"{benchmark}, scorer {scorer}")
    print(report(summaries, comparison))
    if arguments.bootstrap:
        units = summaries[0]["clusters_are"]
        print(f"[]: 95% bootstrap intervals, {arguments.bootstrap} resamples of {units}, seed {arguments.seed}")
    for output in filter(None, (arguments.output_json, *arguments.per_row)):
        print(f"written: {output}")


if __name__ == "__main__":
    run_script(main)

"""The official score of a run that has just ended, printed beneath it; eval/score.py has the others."""

from eval import score
from eval.harness import Run
from eval.manifest import note_keys
from models.errors import InputError


def print_score(this: Run) -> None:
    """Score the answers of a benchmark that eval/score.py knows by its name, by the official rule.

    A run cut by --limit, or with errors in it, is scored as far as it goes and labelled partial.
    """
    answers = str(this.args.answers_file)
    note_keys(this.args.answers_file, [this.key(item) for item in this.items])
    try:
        score.main([this.benchmark.name, "--answers_file", answers, "--allow_partial"])
    except InputError as error:  # the answers are whole all the same
        print(f"{this.benchmark.name}: not scored: {error}")
    print(
        f"again, or by another rule: python eval/score.py {this.benchmark.name} --answers_file {answers} --scorer ..."
    )

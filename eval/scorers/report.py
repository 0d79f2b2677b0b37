"""What eval/score.py says: its summaries in words and in one aligned table. Nothing is computed here."""

from eval.entries import show_entry
from eval.text_table import text_table


def report(summaries: list[dict], comparison: dict | None) -> str:
    """Counts, the numbers with one column per run and one for the difference, tests, remarks."""
    columns = summaries + ([comparison] if comparison else [])
    rows = [["", *(f"{column['label']} (partial)" if column.get("partial") else column["label"] for column in columns)]]
    for name in summaries[0]["numbers"]:
        entries = [(column, column["numbers"].get(name)) for column in columns]
        shown = [show_entry(entry, signed=column is comparison) if entry else "-" for column, entry in entries]
        rows.append([name, *shown])
    notes = [f"{summary['label']}: {remark}" for summary in summaries for remark in summary["remarks"]]
    for name, test in (comparison or {"mcnemar": {}})["mcnemar"].items():
        first, second = (summary["label"] for summary in summaries)
        notes.append(
            f"McNemar, {name}: {test['only_first_correct']} right in {first} alone, {test['only_second_correct']} in "
            f"{second} alone, p = {test['p']:.3g} (taken as independent)"
        )
    parts = ["\n".join(_counts(summary) for summary in summaries), text_table(rows), "\n".join(notes)]
    return "\n\n".join(filter(None, parts))


def _counts(summary: dict) -> str:
    share = summary["numbers"]["unreadable"]["value"]
    counts = [f"{summary['scored']} rows scored", f"{summary['unreadable']} unreadable ({share:.1f}%)"]
    counts += [f"{summary['guessed']} of them settled by the rule"] * bool(summary["guessed"])
    counts += [f"{summary['errors']} without a reply"] * bool(summary["errors"])
    counts += [f"{summary['left_out']} left out"] * bool(summary["left_out"])
    lines = [f"{summary['label']}: {', '.join(counts)}"]
    lines += [f"{summary['label']}: PARTIAL, not to be compared: {reason}" for reason in summary["partial"]]
    return "\n".join(lines)

"""Perception, similarity, information flow, positions alone and benchmarks on the page."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize

from data.grid import cell_names
from eval import flow_report, perception_report, similarity_report
from eval.entries import show_entry
from eval.map_figure import curve_figure, map_figure, scale_of
from eval.plots import STUDIES, check_same_study, intervals_in_words
from eval.reporting.pairs import Comparison
from eval.reporting.parts import Section, Table, with_minus
from eval.reporting.pictures import heatmap_pictures, saved
from eval.reporting.probe_section import warnings_of
from eval.reporting.results import FLOW, PERCEPTION, SIMILARITY
from eval.scorers.report import report as scores_in_words
from models.errors import InputError

TEXTS = {
    PERCEPTION: (
        "Perception",
        "How much the answer's logits lose when a square of the canvas is covered, by the cell of the picture that was "
        "asked for. Mass in the target's cell means that the answer rests on what it was asked about.",
    ),
    SIMILARITY: (
        "Understanding",
        "Cosine of a caption and its picture, alone at each place of an empty canvas, beside that of another caption, "
        "without which a cosine says nothing about meaning. No position enters: the flag changes nothing here.",
    ),
    FLOW: (
        "Information flow",
        "Attention from the text behind the image to each patch, mean over layers, heads and items.",
    ),
}


def study_sections(one: Comparison, settings: argparse.Namespace) -> list[Section]:
    """A study's runs beside each other; apart if they cannot be compared, such as for errors that one of them has.

    Raises InputError for answers that eval/plots.py refuses.
    """
    try:
        check_same_study(one.paths, STUDIES[one.kind].SAME_SETTINGS)
    except InputError as error:
        apart = [_study(Comparison((run,)), settings) for run in one.runs]
        return [replace(section, warnings=[*section.warnings, f"Not compared: {error}"]) for section in apart]
    return [_study(one, settings)]


def _study(one: Comparison, settings: argparse.Namespace) -> Section:
    asked = argparse.Namespace(
        results_file=one.paths, labels=one.labels, bootstrap=settings.bootstrap, seed=settings.seed, output_path=None
    )
    return {SIMILARITY: _similarity, PERCEPTION: _perception, FLOW: _flow}[one.kind](one, asked)


def _section(one: Comparison, said: str, numbers: dict, more_notes: Sequence[str] = (), **parts) -> Section:
    """`said`: what the study's report says; its lines before the first empty one are notes."""
    title, text = TEXTS[one.kind]
    notes = [with_minus(line) for line in said.split("\n\n")[0].splitlines()]
    if intervals := intervals_in_words(numbers, STUDIES[one.kind].UNIT):
        notes.append(f"In brackets: {intervals}.")
    about = f"{one.runs[0].manifest['items']} items"
    return Section(title, about, text, warnings_of(one), notes=[*notes, *more_notes], **parts)


def _similarity(one: Comparison, asked: argparse.Namespace) -> Section:
    text, numbers, panels = similarity_report.describe(asked)
    alts = [f"Heat map, {panel.title}, {panel.legend}; {panel.subtitle}" for panel in panels]
    rows = [["", "mean", "spread over cells", "worst cell", "best cell"]]
    for run in numbers["runs"]:
        for name in filter(run.__contains__, similarity_report.SCALES):
            cells = [cell["value"] for cell in run[name]["cells"] if cell["value"] is not None]
            ends = [run[name]["spread"], min(cells), max(cells)]
            rows.append(
                [f"{run['label']}: {name}", show_entry(run[name], signed=False), *(f"{end:.2f}" for end in ends)]
            )
    table = Table("Cosines in hundredths; readout in percent of captions", _minus(rows))
    return _section(one, text, numbers, pictures=[heatmap_pictures(panels, alts)], tables=[table])


def _perception(one: Comparison, asked: argparse.Namespace) -> Section:
    text, numbers, drawn = perception_report.describe(asked)
    norm, size = perception_report.scale_of(drawn), perception_report.SMALL_SIZE
    pictures = []
    for label, maps in drawn:
        alt = f"Perception, {label}: maps of what the answer loses, one for each cell of the target{_empty_cells(maps)}"
        pictures.append(saved(perception_report.figure([(label, maps)], norm, size), alt))
    shares = [run["target_share"] for run in numbers["runs"]]
    chance = f"mean of all cells (chance {100 / len(shares[0]['cells']):.1f})"
    rows = [["", *one.labels], [chance, *(show_entry(share, signed=False) for share in shares)]]
    for cells in zip(*(share["cells"] for share in shares), strict=True):
        rows.append([cells[0]["position"].replace("_", " "), *(show_entry(cell, signed=False) for cell in cells)])
    table = Table("Share of the map in the target's cell, %", _minus(rows))
    return _section(one, text, numbers, pictures=[pictures], tables=[table])


def _empty_cells(maps: np.ndarray) -> str:
    """In words, the cells whose map, of (cells, rows, columns), is NaN."""
    names = cell_names(round(len(maps) ** 0.5))
    empty = [name.replace("_", " ") for name, one in zip(names, maps, strict=True) if np.isnan(one).any()]
    return f"; no data: {', '.join(empty)}" if empty else ""


def _flow(one: Comparison, asked: argparse.Namespace) -> Section:
    text, numbers, maps, curves = flow_report.summarise(asked)
    norm = scale_of(maps)
    pictures = [[saved(map_figure([(label, map_)], flow_report.SCALE, norm=norm), f"Attention of each patch, {label}")
                 for label, map_ in maps]]  # fmt: skip
    if curves:
        alt = f"by layer: {', '.join(label for label, _ in curves)}"
        titles = flow_report.LAYER_TITLES.items()
        pictures.append([saved(curve_figure(curves, name, title), f"{title}, {alt}") for name, title in titles])
    runs = numbers["runs"]
    rows = [["", *one.labels]]
    for name, title in flow_report.TITLES.items():
        rows.append([title, *(_three_decimals(run[name]) for run in runs)])
    thirds = [["", *one.labels]]
    for third in range(9):
        numbers_of = (_three_decimals(run["thirds"][third]) for run in runs)
        thirds.append([f"row {third // 3 + 1}, column {third % 3 + 1}", *numbers_of])
    tables = [
        Table("Shape of the map", _minus(rows)),
        Table("Share of thirds of the canvas, %", _minus(thirds), folded=True),
    ]
    notes = [f"{flow_report.BASIC[0].upper()}{flow_report.BASIC[1:]}."] if flow_report.has_basic(runs) else []
    return _section(one, text, numbers, notes, pictures=pictures, tables=tables)


def rotary_section(path: Path, found: dict) -> Section:
    """What eval/rotary_bias.py wrote. Raises InputError if it is damaged."""
    try:
        rows, maps = [["", "layers", "patches", "RKD off", "RKD on", "PTD off", "PTD on"]], []
        for one in found["found"]:
            title = ", ".join(filter(None, [str(one["view"]), str(one["layer_type"] or "").replace("_", " ")]))
            kernels = {flag: np.array(one[flag]["kernel"], float) for flag in ("off", "on")}
            grid = "{}×{}".format(*kernels["off"].shape)
            numbers = [f"{one[flag][name]:.2f}" for name in ("rkd", "ptd") for flag in ("off", "on")]
            rows.append([title, str(one["layers"]), grid, *numbers])
            maps += [(f"{title}: BaPA {flag}", kernel) for flag, kernel in kernels.items()]
        # The scale of eval/rotary_bias.py's own figure: those of a kernel that hardly varies must hardly vary.
        norm = Normalize(min(0.0, *(kernel.min() for _, kernel in maps)), 1.0)
        scale = "rotary kernel of a patch\n(a cosine: 1 without distance)"
        pictures = [saved(map_figure([one], scale, norm=norm), f"Rotary kernel over the patches of an image, {one[0]}")
                    for one in maps]  # fmt: skip
        about = f"{found['model_path']}, {found['image_tokens']} image tokens, {found['text_tokens']} of text"
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not as eval/rotary_bias.py writes it ({error!r}); run it anew") from None
    return Section(
        "Positions alone",
        about,
        "What positions and rotary frequencies predict, without weights. RKD: how much the mean cosine of the rotation "
        "between a text token and a patch differs between patches, in hundredths. PTD: the same of the distance, in "
        "positions. With BaPA both are 0 by construction.",
        pictures=[pictures[start : start + 2] for start in range(0, len(pictures), 2)],  # off beside on
        tables=[Table("Dispersion over patches", _minus(rows))],
    )


def score_section(path: Path, scores: dict) -> Section:
    """What eval/score.py wrote. Raises InputError if it is damaged."""
    try:
        runs, comparison = scores["runs"], scores["comparison"]
        columns = [*runs, *([comparison] if comparison else [])]
        partial = [f"Partial, not to be compared: {run['label']}: {line}" for run in runs for line in run["partial"]]
        rows = [["", *(run["label"] for run in runs), *(["difference"] if comparison else [])]]
        for name in runs[0]["numbers"]:
            entries = [(column is comparison, column["numbers"].get(name)) for column in columns]
            shown = [show_entry(entry, signed=signed) if entry else "-" for signed, entry in entries]
            rows.append([name.replace("_", " "), *shown])
        counts, *_ = parts = scores_in_words(runs, comparison).split("\n\n")
        notes = [line for part in (counts, *parts[2:]) for line in part.splitlines() if ": PARTIAL" not in line]
        if scores["bootstrap"]:
            units = runs[0]["clusters_are"]
            notes.append(f"In brackets: 95% bootstrap intervals, {scores['bootstrap']} resamples of {units}.")
        title = f"{scores['benchmark']}, scorer {scores['scorer']}"
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: not as eval/score.py writes it ({error!r}); score anew") from None
    table = Table("Scores in percent, unless named otherwise", _minus(rows))
    return Section(title, "", "", partial, tables=[table], notes=list(map(with_minus, notes)))


def _three_decimals(entry: dict) -> str:
    if entry["value"] is None:
        return "-"
    bounds = "" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['value']:.3f}{bounds}"


def _minus(rows: list[list[str]]) -> list[list[str]]:
    return [rows[0], *([title, *map(with_minus, cells)] for title, *cells in rows[1:])]

"""Similarity of captions and pictures by cell, beside that with another caption, and what a linear readout finds."""

import argparse
import base64
import warnings

import numpy as np

from eval.cell_means import CellMeans, cell_means
from eval.heatmaps import Panel, probe_heatmaps
from eval.measured import Measured, read_measured
from eval.text_table import text_table
from models.errors import InputError

OWN, ANOTHER, DIFFERENCE, READOUT = "own caption", "another caption", "own less another", "linear readout"
# What is drawn of each, and in this order: panels of one scale beside each other.
SCALES = {
    OWN: "cosine, hundredths",
    ANOTHER: "cosine, hundredths",
    DIFFERENCE: "difference of cosines, hundredths",
    READOUT: "captions read right, %",
}
FILE, UNIT = "similarity.jsonl", "captions"
SAME_SETTINGS = ("pooling",)
READ_AT_MOST = 1000  # captions; the readout has one class for each


def report(arguments: argparse.Namespace) -> tuple[str, dict]:
    """Draw the picture; the table in words and all numbers."""
    text, numbers, panels = describe(arguments)
    probe_heatmaps(panels, arguments.output_path)
    return text, numbers


def describe(arguments: argparse.Namespace) -> tuple[str, dict, list[Panel]]:
    """The table in words, all numbers, and the heat maps."""
    runs, panels, rows = [], [], [["", "mean", "spread over cells", "worst cell", "best cell"]]
    for path, label in zip(arguments.results_file, arguments.labels, strict=True):
        measured = read_measured(path, {"similarity": float, "similarity_other": float})
        means = {
            name: cell_means(values, arguments.bootstrap, arguments.seed) for name, values in studied(measured).items()
        }
        for name, found in means.items():
            rows.append([f"{label}: {name}", *_columns(found)])
            panels.append(found.panel(f"{label}: {name}", SCALES[name], diverging=name == DIFFERENCE))
        runs.append(
            {"label": label, "results_file": path, "captions": len(measured.index), "errors": measured.errors}
            | {name: found.as_dict() for name, found in means.items()}
        )
    panels.sort(key=lambda panel: list(SCALES.values()).index(panel.scale))
    notes = [f"{run['label']}: {run['captions']} captions, {run['errors']} errors (left out)" for run in runs]
    for run in runs:
        if READOUT in run:
            read = min(run["captions"], READ_AT_MOST)
            notes.append(f"{run['label']}: readout of {read} captions, chance {100 / read:.2f} %")
    text = "\n".join([*notes, "", text_table(rows), "", "cosines in hundredths; readout in percent of captions"])
    return text, {"bootstrap": arguments.bootstrap, "seed": arguments.seed, "runs": runs}, panels


def studied(measured: Measured) -> dict[str, np.ndarray]:
    """Name -> numbers by caption and cell, (captions, cells): cosines in hundredths, readings 0 or 100."""
    own = 100 * measured.values(lambda row: row["similarity"])
    other = 100 * measured.values(lambda row: row["similarity_other"])
    found = {OWN: own, ANOTHER: other, DIFFERENCE: own - other}
    if "features" in measured.rows[0]:
        found[READOUT] = linear_readout(measured)
    return found


def linear_readout(measured: Measured) -> np.ndarray:
    """Whether a linear classifier that saw every caption in all cells but one reads it in that one: 100 or 0.

    The classifier is scikit-learn's RidgeClassifier on standardised features, one class per caption, of at most the
    first READ_AT_MOST captions; (captions, cells), NaN for what was not measured, there or in any other cell. Chance is
    100 / captions.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    index = measured.index[:READ_AT_MOST]
    if len(index) < 2:
        raise InputError(f"{measured.path}: one caption only; a readout needs several to tell apart")
    captions, cells = (index >= 0).nonzero()
    features = np.stack([_features(measured, place) for place in index[captions, cells]])
    right = np.full(index.shape, np.nan)
    for cell in range(index.shape[1]):
        seen = cells != cell
        held_out = ~seen & np.isin(captions, captions[seen])
        if not held_out.any() or len(set(captions[seen])) < 2:
            continue
        classifier = make_pipeline(StandardScaler(), RidgeClassifier())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Singular matrix|Ill-conditioned")
            classifier.fit(features[seen], captions[seen])
        right[captions[held_out], cell] = 100.0 * (classifier.predict(features[held_out]) == captions[held_out])
    return right


def _features(measured: Measured, place: int) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(measured.rows[place]["features"]), np.float16).astype(np.float32)
    except (KeyError, ValueError):
        raise InputError(
            f"{measured.path}: row {place + 1} has no readable `features`; run with --readout linear"
        ) from None


def _columns(found: CellMeans) -> list[str]:
    bounds = f" [{found.low:.2f}, {found.high:.2f}]" if np.isfinite(found.low) else ""
    extremes = (np.nanmin(found.cells), np.nanmax(found.cells))
    return [f"{found.mean:.2f}{bounds}", f"{found.spread:.2f}", *(f"{value:.2f}" for value in extremes)]

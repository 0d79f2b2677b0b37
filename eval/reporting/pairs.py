"""Which two runs are compared: one with the flag off, one with it on, over the same questions."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from eval.reporting.results import RunFile
from models.fingerprint import FLAG
from models.provenance import differences

NOT_SETTINGS = {FLAG, "provenance", "model_path", "model_files", "tower_files", "model_revision"}  # or told apart


@dataclass(frozen=True)
class Comparison:
    """Two runs, the flag off before on, or one that has no partner."""

    runs: tuple[RunFile, ...]

    @property
    def kind(self) -> str:
        return self.runs[0].kind

    @property
    def paths(self) -> list[str]:
        return [str(run.path) for run in self.runs]

    @property
    def labels(self) -> list[str]:
        return [flag_words(run.flag) for run in self.runs]

    @property
    def same_weights(self) -> bool:
        return len({run.weights for run in self.runs}) == 1

    @property
    def partial(self) -> list[str]:
        """In words, what cut the runs short."""
        return [f"{flag_words(run.flag)}: {run.shortened}" for run in self.runs if run.shortened]

    @property
    def differing(self) -> str:
        """In one line, the settings that two runs do not share, beside flag and checkpoint; empty if none."""
        if len(self.runs) < 2:
            return ""
        first, second = (
            {name: value for name, value in run.manifest.items() if name not in NOT_SETTINGS} for run in self.runs
        )
        return differences(first, second)

    @property
    def other_config(self) -> bool:
        """Whether two runs of the same weights had another config.json: the flag in it, or more."""
        configs = {run.manifest["model_files"].get("config.json") for run in self.runs}
        return self.same_weights and len(configs) > 1

    @property
    def names(self) -> list[str]:
        """What to call the checkpoint of each run: its folder's name, with the path where two share one."""
        paths = [run.manifest["model_path"] for run in self.runs]
        names = [Path(path).name for path in paths]
        return names if len(set(names)) == len(set(paths)) else paths


def flag_words(flag: bool) -> str:
    return "BaPA on" if flag else "BaPA off"


def compared(runs: list[RunFile]) -> list[Comparison]:
    """All runs, as pairs where it is clear which belong together.

    Among runs of the same questions and settings, the flag off and on pair if they are the only two of one checkpoint
    (the same weights); then of two checkpoints whose weights have one form, such as two trainings of a model, if they
    are the only two in a folder, or at all. What is left stands alone.
    """
    groups: dict[tuple, list[RunFile]] = {}
    for run in runs:
        groups.setdefault(run.asked, []).append(run)
    found = []
    for left in groups.values():
        for key in (_weights, _form_and_folder, _form):
            pairs = _only_two(left, key)
            found += [Comparison(pair) for pair in pairs]
            left = [run for run in left if not any(run in pair for pair in pairs)]
        found += [Comparison((run,)) for run in left]
    return sorted(found, key=lambda one: one.paths)


def by_model(comparisons: list[Comparison]) -> list[list[Comparison]]:
    """Comparisons that share a checkpoint, together; in the order of the first of each."""
    groups: list[tuple[set, list[Comparison]]] = []
    for one in comparisons:
        weights, members = {run.weights for run in one.runs}, [one]
        for group in [group for group in groups if group[0] & weights]:
            weights, members = weights | group[0], group[1] + members
            groups.remove(group)
        groups.append((weights, members))
    return [sorted(members, key=lambda one: one.paths) for _, members in groups]


def model_names(groups: list[list[Comparison]]) -> list[str]:
    """What to call the checkpoints of each group: names of folders, with all of the path where two groups share one."""
    paths = [list(dict.fromkeys(run.manifest["model_path"] for one in group for run in one.runs)) for group in groups]
    names = [" and ".join(dict.fromkeys(Path(path).name for path in group)) for group in paths]
    return [name if names.count(name) == 1 else " and ".join(group) for name, group in zip(names, paths, strict=True)]


def _only_two(runs: list[RunFile], key: Callable[[RunFile], Hashable]) -> list[tuple[RunFile, RunFile]]:
    """Pairs, off before on, of the runs that have a key of their own."""
    by_key: dict[Hashable, list[RunFile]] = {}
    for run in runs:
        by_key.setdefault(key(run), []).append(run)
    found = []
    for known, members in by_key.items():
        if known and sorted(run.flag for run in members) == [False, True]:
            found.append(tuple(sorted(members, key=lambda run: run.flag)))
    return found


def _weights(run: RunFile) -> Hashable:
    return run.weights


def _form(run: RunFile) -> Hashable:
    return run.form


def _form_and_folder(run: RunFile) -> Hashable:
    return run.form and (run.form, run.path.parent)

"""train/run_folder.py: what a run may write into, go on with and delete."""

import dataclasses
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import yaml

from models.errors import InputError
from train.run_folder import (
    LOCK,
    LOG,
    SETTINGS,
    TRAINING,
    WHOLE,
    append_log,
    cut_log,
    is_finished,
    lock_folder,
    mark_whole,
    open_folder,
    read_log,
    undone_if_refused,
    whole_checkpoints,
)
from train.settings import Settings


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def settings(folder) -> Settings:
    return Settings(model_path="base", data=["a.json"], output_dir=str(folder))


def changed(settings: Settings, **values) -> Settings:
    return dataclasses.replace(settings, **values)


def opened(settings: Settings) -> Path | None:
    with lock_folder(Path(settings.output_dir)):
        return open_folder(settings)


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"state")
    if whole:
        (path / WHOLE).write_text("{}")
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK}


def test_a_new_folder(settings, folder):
    assert opened(settings) is None
    assert yaml.safe_load((folder / SETTINGS).read_text()) == dataclasses.asdict(settings)
    assert names(folder) == {SETTINGS}


def test_an_empty_folder(settings, folder):
    folder.mkdir()
    assert opened(settings) is None


@pytest.mark.parametrize(("resume", "overwrite"), [("none", False), ("none", True), ("auto", False)])
def test_a_folder_of_something_else(settings, folder, resume, overwrite):
    """Is never written into or deleted, whatever is asked for."""
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"output_dir .*run: holds files; name a new folder"):
        opened(changed(settings, resume=resume, overwrite=overwrite))
    assert names(folder) == {"thesis.tex"}


def test_a_file(settings, folder):
    folder.write_text("")
    with pytest.raises(InputError, match=r"output_dir .*run: cannot be written"):
        opened(settings)


def test_two_runs_in_one_folder(settings, folder):
    fork = multiprocessing.get_context("fork")
    told = fork.SimpleQueue()

    def enter() -> None:
        try:
            with lock_folder(folder):
                told.put("entered")
        except InputError as error:
            told.put(str(error))

    def another() -> str:
        process = fork.Process(target=enter)
        process.start()
        process.join()
        return told.get()

    with lock_folder(folder):
        assert another().endswith("another run is at work in it; wait for it, or stop its processes")
    assert another() == "entered"


def test_a_run_is_not_started_over_by_accident(settings, folder):
    opened(settings)
    with pytest.raises(InputError, match="holds files; --resume auto goes on with its run, --overwrite true deletes"):
        opened(settings)


def test_resume(settings, folder):
    assert opened(changed(settings, resume="auto")) is None  # of nothing: starts
    assert opened(changed(settings, resume="auto")) is None
    checkpoint(folder, 2)
    assert opened(changed(settings, resume="auto")) == folder / "checkpoint-2"
    checkpoint(folder, 10)
    checkpoint(folder, 12, whole=False)
    assert opened(changed(settings, resume="auto")) == folder / "checkpoint-10"


def test_resume_with_what_does_not_decide(settings, folder):
    opened(settings)
    same = {"resume": "auto", "per_device_batch_size": 4, "num_workers": 0, "save_steps": 7, "logging_steps": 3}
    same["max_bad_samples"] = 1000  # a run that broken pictures have stopped can go on
    opened(changed(settings, **same))
    assert yaml.safe_load((folder / SETTINGS).read_text())["save_steps"] == 7


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("learning_rate", 1e-3, r"learning_rate: 0\.0001 -> 0\.001"),
        ("seed", 7, "seed: 42 -> 7"),
        ("data", ["b.json"], r'data: \["a.json"\] -> \["b.json"\]'),
        ("position_balance", True, "position_balance: null -> true"),
        ("max_steps", 20, "max_steps: -1 -> 20"),
    ],
)
def test_resume_of_another_recipe(settings, folder, name, value, told):
    opened(settings)
    before = (folder / SETTINGS).read_bytes()
    with pytest.raises(InputError, match=rf"--resume auto: .*run holds a run of another recipe \({told}\); change it"):
        opened(changed(settings, resume="auto", **{name: value}))
    assert (folder / SETTINGS).read_bytes() == before


def test_overwrite(settings, folder):
    opened(settings)
    checkpoint(folder, 2)
    (folder / LOG).write_text("{}\n")
    (folder / "link").symlink_to(folder / "checkpoint-2")
    assert opened(changed(settings, overwrite=True, seed=7)) is None
    assert names(folder) == {SETTINGS}
    assert yaml.safe_load((folder / SETTINGS).read_text())["seed"] == 7


def test_overwrite_and_resume_are_opposites(settings, folder):
    opened(settings)
    checkpoint(folder, 2)
    with pytest.raises(InputError, match="are opposites; choose one"):
        opened(changed(settings, overwrite=True, resume="auto"))
    assert (folder / "checkpoint-2").is_dir()


def test_broken_settings(settings, folder):
    opened(settings)
    (folder / SETTINGS).write_bytes(b"\xff: [")
    with pytest.raises(InputError, match=r"settings\.yaml: not the settings of a run; --overwrite true deletes"):
        opened(changed(settings, resume="auto"))
    opened(changed(settings, overwrite=True))
    assert yaml.safe_load((folder / SETTINGS).read_text())["seed"] == 42


def test_finished(folder):
    folder.mkdir()
    assert not is_finished(folder)
    (folder / TRAINING).write_text("{}")
    assert is_finished(folder)


def test_checkpoints_in_order_of_their_steps(folder):
    for step in (1000, 20, 3):
        checkpoint(folder, step)
    checkpoint(folder, 2000, whole=False)
    (folder / WHOLE).write_text("{}")
    assert [path.name for path in whole_checkpoints(folder)] == ["checkpoint-3", "checkpoint-20", "checkpoint-1000"]
    assert whole_checkpoints(folder / "nowhere") == []


@pytest.mark.parametrize(("keep", "kept"), [(1, {"checkpoint-100"}), (2, {"checkpoint-100", "checkpoint-20"})])
def test_marking_deletes_what_is_older(folder, keep, kept):
    for step in (9, 20):
        checkpoint(folder, step)
    checkpoint(folder, 15, whole=False)
    (folder / "checkpoint-final").mkdir()
    new = checkpoint(folder, 100, whole=False)
    mark_whole(new, keep)
    assert names(folder) == kept | {"checkpoint-final"}
    assert whole_checkpoints(folder)[-1] == new
    assert (new / "optimizer.pt").is_file()


def test_a_kill_while_deleting_leaves_nothing_that_looks_whole(folder, monkeypatch):
    """The mark goes before the rest."""
    old, new = checkpoint(folder, 1), checkpoint(folder, 2, whole=False)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed here
    mark_whole(new, 1)
    assert old.is_dir()
    assert whole_checkpoints(folder) == [new]


def test_the_log_goes_on_behind_the_checkpoint(folder):
    folder.mkdir()
    for step in range(1, 6):
        append_log(folder, {"step": step, "loss": step / 3})
    with open(folder / LOG, "a") as file:
        file.write('{"step": 6, "lo')  # cut off by a kill
    assert [line["step"] for line in read_log(folder)] == [1, 2, 3, 4, 5]
    cut_log(folder, 3)
    append_log(folder, {"step": 4, "loss": 0.5})
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2] == {"step": 3, "loss": 1.0}
    assert lines[3]["loss"] == 0.5
    cut_log(folder, 0)
    assert (folder / LOG).read_text() == ""


def test_without_a_log(folder):
    folder.mkdir()
    assert read_log(folder) == []
    cut_log(folder, 3)
    assert names(folder) == set()


def trained(settings: Settings, *steps: int) -> Path:
    """A run's folder with whole checkpoints of several files."""
    opened(settings)
    folder = Path(settings.output_dir)
    for step in steps:
        path = checkpoint(folder, step, whole=False)
        (path / "scheduler.pt").write_bytes(b"schedule")
        (path / "global_step1").mkdir()
        (path / "global_step1" / "shard_0.pt").write_bytes(bytes(10_000_000))  # sampled, not read as a whole
        mark_whole(path, keep=5)
    return folder


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "global_step1/shard_0.pt"])
@pytest.mark.parametrize("how", ["missing", "shorter", "changed"])
def test_a_checkpoint_that_lacks_or_changed_a_file_is_refused(name, how, settings):
    folder = trained(settings, 2, 4)
    file = folder / "checkpoint-4" / name
    content = file.read_bytes()
    changed_content = {"shorter": content[:-1], "changed": b"x" + content[1:]}
    file.unlink() if how == "missing" else file.write_bytes(changed_content[how])
    with pytest.raises(InputError, match=f"checkpoint-4/{name} is .*delete .*checkpoint-4 to go on from checkpoint-2"):
        opened(changed(settings, resume="auto"))
    for path in sorted(folder.glob("checkpoint-4/**/*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert opened(changed(settings, resume="auto")) == folder / "checkpoint-2"


def test_the_only_checkpoint_that_lacks_a_file(settings):
    folder = trained(settings, 2)
    (folder / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match="optimizer.pt is missing; restore it, or delete .*checkpoint-2 to start anew"):
        opened(changed(settings, resume="auto"))


def test_a_checkpoint_of_an_earlier_version_lists_no_files_and_resumes(settings):
    folder = trained(settings, 2)
    (folder / "checkpoint-2" / WHOLE).write_text('{"checkpoint": "checkpoint-2", "processes": 1}\n')
    (folder / "checkpoint-2" / "scheduler.pt").unlink()
    assert opened(changed(settings, resume="auto")) == folder / "checkpoint-2"


def test_copies_of_a_checkpoint_are_the_users_own(settings):
    folder = trained(settings, 2)
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-best")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-2-kept")
    assert opened(changed(settings, resume="auto")) == folder / "checkpoint-2"
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-9")
    mark_whole(checkpoint(folder, 4, whole=False), keep=1)
    assert names(folder) == {SETTINGS, "checkpoint-best", "checkpoint-2-kept", "checkpoint-9", "checkpoint-4"}
    with pytest.raises(InputError, match="checkpoint-9 is a copy of checkpoint-2; give it a name that is no"):
        opened(changed(settings, resume="auto"))


def test_a_lock_leaves_no_file_and_no_folder_that_it_made(folder):
    with lock_folder(folder / "deep" / "run"):
        assert (folder / "deep" / "run" / LOCK).is_file()
    assert not folder.exists()
    folder.mkdir()
    with lock_folder(folder):
        (folder / "file").touch()
    assert names(folder) == {"file"}
    assert not (folder / LOCK).exists()


def refused(settings: Settings, *made: str) -> None:
    """A run that is refused after it has written these files."""
    with lock_folder(Path(settings.output_dir)), undone_if_refused(settings):
        open_folder(settings)
        for name in made:
            (Path(settings.output_dir) / name).write_text("x")
        raise InputError("refused")


def test_a_refused_run_leaves_nothing_and_the_corrected_one_starts(settings, folder):
    with pytest.raises(InputError, match="refused"):
        refused(settings, "assembled")
    assert not folder.exists()
    with pytest.raises(InputError, match="refused"):
        refused(settings, "dropped.jsonl")
    assert names(folder) == {"dropped.jsonl"}
    assert opened(changed(settings, cutoff_len=4096)) is None


def test_a_run_that_has_begun_is_kept_when_it_is_refused(settings, folder):
    with pytest.raises(InputError, match="refused"):
        refused(settings, "data.sha256", "log.jsonl")
    assert names(folder) == {SETTINGS, "data.sha256", "log.jsonl"}
    with pytest.raises(InputError, match="refused"):
        refused(changed(settings, resume="auto"))
    assert names(folder) == {SETTINGS, "data.sha256", "log.jsonl"}


def test_a_refused_run_deletes_nothing_of_others(settings, folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds files"):
        refused(settings)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_curve_that_shows_what_is_dropped_goes(settings, folder):
    opened(settings)
    for step in (1, 2, 3):
        append_log(folder, {"step": step, "loss": 1.0})
    (folder / "loss.png").write_text("of three updates")
    cut_log(folder, 3)
    assert (folder / "loss.png").exists()
    cut_log(folder, 2)
    assert not (folder / "loss.png").exists()

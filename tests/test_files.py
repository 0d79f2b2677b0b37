"""Files are whole or absent, whatever lies at their path, also where the file system has no fsync."""

import errno
import json
import os
import stat
import threading

import pytest

from data.files import is_open_file, remove_halves, write_atomic, write_json, writing
from models.errors import InputError


@pytest.mark.parametrize(("number", "tolerated"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_refused_fsync_is_no_failure_but_a_broken_disk_is(number, tolerated, tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    if tolerated:
        write_atomic(tmp_path / "a", "new")
    else:
        with pytest.raises(InputError, match=f"a: cannot be written .{os.strerror(number)}"):
            write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == ("new" if tolerated else "old")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "new", "x")
        (tmp_path / "plain").write_text("x")
        (tmp_path / "old").write_text("x")
        (tmp_path / "old").chmod(0o640)
        write_atomic(tmp_path / "old", "y")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert (tmp_path / "old").read_text() == "y"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there, tmp_path):
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / "target", tmp_path / "link", tmp_path / "second"
    link.symlink_to("far/target")
    second.symlink_to(link)
    if there:
        target.write_text("old")
    write_atomic(second, "new")
    assert link.is_symlink()
    assert second.is_symlink()
    assert not target.is_symlink()
    assert target.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["far", "link", "second"]
    assert os.listdir(tmp_path / "far") == ["target"]


def test_a_loop_of_links_and_a_folder_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop: cannot be written .Too many levels"):
        write_atomic(tmp_path / "loop", "x")
    with pytest.raises(InputError, match="cannot be written .it is a folder"):
        write_atomic(tmp_path, "x")
    assert os.listdir(tmp_path) == ["loop"]


def test_a_null_device_stays_one(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        with open(device, "wb"):
            pass
    except PermissionError:
        pytest.skip("only root makes devices, and not everywhere")
    (tmp_path / "link").symlink_to(device)
    for path in (device, tmp_path / "link"):
        write_json(path, {"a": 1})
        assert stat.S_ISCHR(device.stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_dev_null_is_written_and_a_full_device_told():
    write_atomic("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    if os.path.exists("/dev/full"):
        with pytest.raises(InputError, match="/dev/full: cannot be written .No space left.*free space"):
            write_atomic("/dev/full", "x")


def test_a_pipe_is_written_if_it_is_read_and_refused_if_not(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="pipe: cannot be written .nobody reads"):
        write_atomic(pipe, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    thread = threading.Thread(target=lambda: got.append(open(reader, "rb").read()))
    content = b"y" * 1_000_000  # more than a pipe holds
    thread.start()
    write_atomic(pipe, content)
    thread.join()
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_open_file_is_appended_to(tmp_path):
    with open(tmp_path / "log", "w") as log:
        log.write("before\n")
        log.flush()
        name = f"/dev/fd/{log.fileno()}"
        if not os.path.exists(name):
            pytest.skip("the system has no /dev/fd")
        (tmp_path / "link").symlink_to(name)
        write_atomic(name, "by name\n")
        write_atomic(tmp_path / "link", "by link\n")
        assert os.fstat(log.fileno()).st_ino == (tmp_path / "log").stat().st_ino
    assert (tmp_path / "log").read_text() == "before\nby name\nby link\n"
    assert is_open_file("/dev/stdout")
    assert not is_open_file(tmp_path / "log")


def test_the_longest_name_is_written_and_a_longer_one_refused(tmp_path):
    write_atomic(tmp_path / ("é" * 127), "x")
    with pytest.raises(InputError, match="File name too long.; give a shorter name"):
        write_atomic(tmp_path / ("é" * 128), "x")
    assert os.listdir(tmp_path) == ["é" * 127]


def test_only_what_a_killed_writer_has_left_is_removed(tmp_path):
    left, others = f".a.jsonl.{'0' * 16}.tmp", [".a.jsonl.mine.tmp", f".b.jsonl.{'0' * 16}.tmp", "a.jsonl"]
    for name in (left, *others):
        (tmp_path / name).touch()
    remove_halves(tmp_path / "a.jsonl")
    assert sorted(os.listdir(tmp_path)) == sorted(others)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_a_full_disk_is_told_whoever_finds_it(error):
    with pytest.raises(InputError, match="x: cannot be written .*; all is kept; free space, or choose another disk"):
        with writing("x", kept="all is kept"):
            raise error


def test_errors_that_are_no_systems_pass():
    with pytest.raises(KeyError):
        with writing("x"):
            raise KeyError("bug")


def test_read_only_files_stay_as_they_are(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(InputError, match="Permission denied"):
        write_json(tmp_path / "a", {})
    assert (tmp_path / "a").read_text() == "old"


def test_json_is_what_was_given(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"a": ["é", 1.5, None]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text("utf-8")) == {"a": ["é", 1.5, None]}

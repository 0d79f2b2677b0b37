"""Files are whole or absent, also where the file system has no fsync."""

import errno
import os

import pytest

from data.files import write_atomic


@pytest.mark.parametrize(("number", "tolerated"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_refused_fsync_is_no_failure_but_a_broken_disk_is(number, tolerated, tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    if tolerated:
        write_atomic(tmp_path / "a", "new")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == ("new" if tolerated else "old")
    assert os.listdir(tmp_path) == ["a"]

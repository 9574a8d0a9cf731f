"""Files are whole or not there; a folder is held by one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qi_core import QiError
from qi_core.files import is_locked, locked, write_whole

HOLD = """
import sys, time
from pathlib import Path
from qi_core.files import locked
with locked(Path(sys.argv[1]), "a run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    for content in (b"old and long", b"new"):
        write_whole(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "a" / "inside").mkdir(parents=True)  # a folder stands where the file should go
    with pytest.raises(QiError, match=r"could not be written .*what was there before is whole"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "inside").is_dir()


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", b"old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_is_held_once_and_free_again_afterwards(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path, "a run"):
        assert is_locked(tmp_path)
        with pytest.raises(QiError, match="a run is already going on there"), locked(tmp_path, "a run"):
            pass
        assert is_locked(tmp_path), "the one that was refused took nothing along"
    assert not is_locked(tmp_path)


def test_a_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        process.kill()
    assert not is_locked(tmp_path)

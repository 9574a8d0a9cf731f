"""Where the engine "local" puts its socket; tests/runs/test_engines.py and test_soak.py train with it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from qi_core import QiError
from qi_plugins.engine_local.local import _socket


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of sockets, in a place where others may write too; not made yet."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return _base(tmp_path)


def _base(temporary: Path) -> Path:
    made = _socket(temporary / "run").parent
    made.rmdir()
    return made


def test_the_socket_lies_in_a_folder_of_this_users_alone(base: Path, tmp_path: Path) -> None:
    first, second = _socket(tmp_path / "run"), _socket(tmp_path / "other")
    assert first.parent == second.parent == base
    assert first != second
    assert base.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("there", ["open", "link", "file"])
def test_what_somebody_else_may_have_put_there_is_refused(base: Path, tmp_path: Path, there: str) -> None:
    if there == "open":
        base.mkdir(mode=0o755)
    elif there == "link":
        (tmp_path / "mine").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "mine")
    else:
        base.touch(mode=0o600)
    with pytest.raises(QiError, match=f"{base}: .*; wanted a folder .*; remove it"):
        _socket(tmp_path / "run")

"""The channel and the ledger of live changes."""

from __future__ import annotations

import fcntl
import shutil
import threading
from pathlib import Path
from typing import TextIO

import pytest

from qi_core import Change, QiError
from qi_core.files import locked
from qi_core.live import Channel, Ledger, Request


def test_a_request_is_answered_with_its_step_or_refused(tmp_path: Path) -> None:
    channel = Channel(tmp_path)
    channel.open()

    def serve(step: int | None, message: str) -> threading.Thread:
        def work() -> None:
            while not (requests := list(channel.requests())):
                pass
            requests[0].answer(message, step)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    with locked(tmp_path, "a run"):
        thread = serve(7, "taken")
        assert Channel(tmp_path).ask("sampler=heun", patience=20) == 7
        thread.join()
        thread = serve(None, "no such sampler")
        with pytest.raises(QiError, match="no such sampler"):
            Channel(tmp_path).ask("sampler=hein", patience=20)
        thread.join()
    assert list(channel.folder.iterdir()) == [], "nothing is left lying"


def test_an_unanswered_request_is_taken_back(tmp_path: Path) -> None:
    channel = Channel(tmp_path)
    channel.open()
    with pytest.raises(QiError, match="the run has ended; nothing was changed"):
        channel.ask("sampler=heun", patience=20)
    with locked(tmp_path, "a run"), pytest.raises(QiError, match=r"not answer within 0[.]05 s; nothing was changed"):
        channel.ask("sampler=heun", patience=0.05)
    assert list(channel.requests()) == []


def test_a_request_that_vanishes_is_passed_over(tmp_path: Path) -> None:
    channel = Channel(tmp_path)
    channel.open()
    for name in ("1.set", "2.set", "3.set"):
        (channel.folder / name).write_text(name)
    requests = channel.requests()
    assert next(requests).setting == "1.set"
    (channel.folder / "2.set").unlink()
    assert [request.setting for request in requests] == ["3.set"]
    shutil.rmtree(channel.folder)
    assert list(channel.requests()) == []


def test_a_request_that_was_taken_is_never_told_to_have_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(tmp_path)
    channel.open()

    def take_late(seconds: float) -> None:
        """The run takes what is there when the asker's patience is over, and answers when it looks again."""
        taken = list(channel.folder.glob("*.taken"))
        if taken:
            Request(setting="", path=taken[0]).answer("taken", 5)
        else:
            assert len(list(channel.requests())) == 1

    monkeypatch.setattr("qi_core.live.time.sleep", take_late)
    monkeypatch.setattr("qi_core.live.time.monotonic", iter(range(100)).__next__)
    with locked(tmp_path, "a run"):
        assert channel.ask("sampler=heun", patience=1.5) == 5


def test_a_lock_on_a_folder_that_was_renamed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    flock = fcntl.flock

    def first_renamed(file: TextIO, operation: int) -> None:
        folder.rename(tmp_path / "run.1")
        folder.mkdir()
        (folder / "lock").touch()
        flock(file, operation)

    monkeypatch.setattr("qi_core.files.fcntl.flock", first_renamed)
    with pytest.raises(QiError, match="already going on"), locked(folder, "a run"):
        pass


def test_what_was_asked_of_an_ended_run_is_not_obeyed_by_the_next(tmp_path: Path) -> None:
    channel = Channel(tmp_path)
    channel.open()
    (channel.folder / "1-1.set").write_text("sampler=heun")
    channel.open()
    assert list(channel.requests()) == []


def test_the_ledger_keeps_order_and_drops_a_torn_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.read() == []
    late, early = Change(step=9, setting="a = 1"), Change(step=3, setting="b = 2")
    ledger.append(late)
    ledger.append(early)
    with ledger.path.open("a") as file:
        file.write('{"step": 11, "sett')
    assert ledger.read() == [early, late]
    last = Change(step=12, setting="c = 3")
    ledger.append(last)
    assert ledger.read() == [early, late, last]
    with ledger.path.open("a") as file:
        file.write("[]\n")
    with pytest.raises(QiError, match=r"events.jsonl:4: no change of a run"):
        ledger.read()
    with pytest.raises(QiError, match="cannot be written"):
        Ledger(tmp_path / "nowhere").append(last)

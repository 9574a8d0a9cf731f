"""The channel and the ledger of live changes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qi_core import Change, QiError
from qi_core.live import Channel, Ledger


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
    with pytest.raises(QiError, match="nothing was changed"):
        channel.ask("sampler=heun", patience=0.05)
    assert list(channel.requests()) == []


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

"""What filters found is kept by several processes in one folder: bounded, whole, and the same whoever came first."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qi_core import keeping
from qi_core.filtering import Verdict
from qi_core.keeping import Keeper
from support.judging import judge


def eyes(folder: Path, which: str) -> dict[str, Any]:
    return {path.name: json.loads(path.read_bytes()) for path in (folder / "data/eyes/luma" / which).iterdir()}


def test_rows_counts_bars_and_pictures(tmp_path: Path) -> None:
    judge(tmp_path, 10)
    (rows,) = (tmp_path / "data").glob("judged-*.jsonl")
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(found) == 10
    assert found[3]["key"] == "grey-3"
    assert found[3]["values"] == {"luma": pytest.approx(85 / 255, abs=1e-3)}
    assert (found[3]["reasons"], found[3]["category"]) == ({"luma": "too dark"}, "dark")
    assert "reasons" not in found[8]
    (tally,) = (tmp_path / "data").glob("tally-*.json")
    assert json.loads(tally.read_bytes()) == {
        "came": {"luma": 10}, "refused": {"luma": {"too dark": 5}}, "judged": 10, "kept": 5, "rows": 10,
    }  # fmt: skip
    assert json.loads((tmp_path / "data/filters.json").read_bytes()) == {"luma": [0.5, None]}
    refused = eyes(tmp_path, "refused")
    assert {told["key"] for told in refused.values()} == {f"grey-{n}" for n in range(5)}
    told = next(iter(eyes(tmp_path, "kept").values()))
    assert Image.open(io.BytesIO(base64.b64decode(told["jpeg"]))).size == (16, 16)


def test_pictures_are_bounded_and_the_same_in_any_order_and_from_any_process(tmp_path: Path) -> None:
    alone, turned, crowd = tmp_path / "alone", tmp_path / "turned", tmp_path / "crowd"
    judge(alone)
    judge(turned, backward=True)
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=judge, args=(crowd, 100, bool(number % 2))) for number in range(2)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(60)
    assert [process.exitcode for process in crew] == [0] * 2
    for which in ("kept", "refused"):
        shown = eyes(alone, which)
        assert len(shown) == keeping.EYES
        assert shown.keys() == eyes(turned, which).keys() == eyes(crowd, which).keys()
    assert len(list((crowd / "data").glob("tally-*.json"))) == 2


def test_what_was_never_made_is_counted_once_and_has_no_picture(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {})
    for _ in range(3):
        keeper.unmade("grey-7", Verdict(values={"listed": 1.0}, reasons={"listed": "on the list"}))
    keeper.close()
    (rows,) = (tmp_path / "data").glob("judged-*.jsonl")
    (line,) = rows.read_text().splitlines()
    assert json.loads(line) | {"id": ""} == {
        "key": "grey-7", "id": "", "values": {"listed": 1.0}, "reasons": {"listed": "on the list"},
    }  # fmt: skip
    assert not (tmp_path / "data" / "eyes").exists()


def test_rows_are_bounded_and_counts_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "ROWS", 7)
    judge(tmp_path, 10)
    (rows,) = (tmp_path / "data").glob("judged-*.jsonl")
    (tally,) = (tmp_path / "data").glob("tally-*.json")
    assert len(rows.read_text().splitlines()) == 7
    assert json.loads(tally.read_bytes())["came"] == {"luma": 10}


def test_what_cannot_be_written_ends_nothing_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    told = judge(tmp_path, 10)
    assert [reason.partition(":")[0] for reason in told] == ["what filters found is not kept any more"]
    assert list(told.values()) == [1]

"""The list of what was skipped: each once, whoever skips it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_core.skipped import Skipped


def test_of_several_ranks_one_writes_and_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = tmp_path / "skipped.jsonl"
    for rank, written in (("1", False), ("0", True), ("1", True), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        skipped = Skipped(tmp_path, "pictures")
        skipped("a.png", "too small", "4x4")
        assert skipped.counts == {"too small": 1}
        assert path.exists() == written
    assert len(path.read_text().splitlines()) == 1


def test_who_is_skipped_anew_for_another_detail_is_listed_once(tmp_path: Path) -> None:
    """A picture that is cropped anew in each epoch measures anew."""
    for detail in ("0.1", '0.2, "detail": "', "0.3"):
        skipped = Skipped(tmp_path, "pictures")  # as after a resume
        skipped("a.png", "too dark", detail)
        skipped("a.png", "too dark", detail + "1")
        skipped('"detail": ".png', "too dark", detail)
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 2

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

"""The default recipe learns what it is for. Its first stage, at the full size, in about a minute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.small_run import here

WORDS = 'source={name="rendered-text", width=80, lengths=[1, 5]}'
UNSEEN = (
    'evaluation=[{name="glyph-match", title="unseen", count=64, every=100, '
    'source={name="rendered-text", split="held-out", width=80, lengths=[1, 5]}}]'
)


@pytest.mark.slow
def test_words_that_were_never_trained_on_are_drawn_right(tmp_path: Path) -> None:
    here("run", "recipes/pretrain.toml", "--folder", tmp_path / "run", "--set", WORDS, "--set", UNSEEN,
         "--set", "train.steps=400", "--set", "optimizer.decay=100", "--set", "preview.every=0")  # fmt: skip
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    right = [record["scalars"]["right"] for record in records if record["event"] == "evaluated"]
    assert right[0] < 0.1, "learning is a jump: after 100 steps there is nothing to read"
    assert right[-1] >= 0.95

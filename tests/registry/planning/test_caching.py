"""``qi plan`` says how large a recipe's cache will be."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_registry.cli import main
from qi_registry.planning.caching import lines
from qi_registry.planning.jobs import Scene
from qi_registry.reader import read
from support.planned_run import RECIPE

SMALL = RECIPE.replace("side = 512", "side = 256")


def told(tmp_path: Path, cache: str, samples: int | None, references: int = 0) -> list[str]:
    """What a plan says of the cache, for captions of 200 tokens."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{SMALL}\n{cache}")
    return lines(read(str(recipe), ()), [Scene(side=256, text=200, references=references)], samples)


CACHE = '[data.cache]\npath = "cache"\n'


def test_the_cache_of_the_samples_that_are_told_or_that_the_run_can_see(tmp_path: Path) -> None:
    first, second = told(tmp_path, CACHE, 1_000_000_000)
    assert first.startswith("data.cache at cache: 1.47 PB for 1,000,000,000 samples: latents 32.8 TB, text 1.43 PB")
    assert second == "98% of the cache is text; with data.cache.text = false captions are encoded each time"
    line = told(tmp_path, CACHE, None)[0]
    assert "at most 64,000 samples (train.steps x train.batch; --samples): latents 2.1 GB, text 91.8 GB" in line


def test_latents_alone_with_references_and_a_quota(tmp_path: Path) -> None:
    assert told(tmp_path, CACHE + "text = false\nquota = 1_100_000_000\n", 20_000, references=1) == [
        "data.cache at cache: 1.32 GB for 20,000 samples: latents 1.31 GB (65.8 kB a sample, bf16)",
        "data.cache.quota: 1.1 GB are full after 16,719 samples; then storing stops",
    ]


def test_nothing_is_said_where_nothing_is_kept(tmp_path: Path) -> None:
    assert told(tmp_path, "", 1000) == []


def test_it_is_a_note_of_qi_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{SMALL}\n{CACHE}")
    main(["plan", str(recipe), "--samples", "1000", "--set", "denoiser.size=tiny"])
    assert "* data.cache at cache: 951 MB for 1,000 samples" in capsys.readouterr().out

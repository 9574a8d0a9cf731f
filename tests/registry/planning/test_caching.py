"""``qi plan`` says how large a recipe's cache will be."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_registry.cli import main

RECIPE = """
[autoencoder]
name = "vae-qwen"
path = "nowhere"

[conditioner]
name = "qwen2.5-vl"

[denoiser]
name = "mmdit"
size = "3b"

[objective]
name = "flow-matching"

[source]
name = "images"
path = "pictures"
side = 256

[train]
batch = 64
steps = 1000
"""


def planned(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: str, *words: str) -> list[str]:
    """What the plan says of the cache."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{RECIPE}\n{cache}")
    main(["plan", str(recipe), "--text", "200", *words])
    notes = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("* ")]
    return [line for line in notes if "cache" in line]


def test_the_cache_of_the_samples_that_are_told_or_that_the_run_can_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = '[data.cache]\npath = "cache"\n'
    first, second = planned(tmp_path, capsys, cache, "--samples", "1000000000")
    assert first.startswith("data.cache at cache: 1.47 PB for 1,000,000,000 samples: latents 32.8 TB, text 1.43 PB")
    assert second == "98% of the cache is text; with data.cache.text = false captions are encoded each time"
    line = planned(tmp_path, capsys, cache)[0]
    assert "at most 64,000 samples (train.steps x train.batch; --samples): latents 2.1 GB, text 91.8 GB" in line


def test_latents_alone_with_references_and_a_quota(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = '[data.cache]\npath = "cache"\ntext = false\nquota = 1_100_000_000\n'
    assert planned(tmp_path, capsys, cache, "--samples", "20000", "--references", "1") == [
        "data.cache at cache: 1.32 GB for 20,000 samples: latents 1.31 GB (65.8 kB a sample, bf16)",
        "data.cache.quota: 1.1 GB are full after 16,719 samples; then storing stops",
    ]


def test_nothing_is_said_where_nothing_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(tmp_path, capsys, "") == []

"""A look at a cache: qi data cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_registry.cli import main
from support.caching import FORM, SMALL, fill, held, shards_of, shelf_at


def test_it_says_what_is_there_and_finds_every_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = shelf_at(tmp_path, shard_bytes=SMALL)
    fill(shelf, range(130))
    shelf.put(FORM, b"n" * 16, FORM.bucket, b"", reason="latent is not finite")
    shelf.close()
    assert main(["data", "cache", str(tmp_path), "--verify"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "whole shards: 3; damaged and set aside: 0"
    assert ["latents", "eeeeeeee", "BF16", "3", "1", "131", "0.000166"] in [line.split() for line in out.splitlines()]
    first, second, _ = shards_of(tmp_path)
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    index = second.with_suffix(".index")
    rows = bytearray(index.read_bytes())
    rows[4096 + 20] ^= 1
    index.write_bytes(rows)
    assert main(["data", "cache", str(tmp_path), "--verify"]) == 1
    assert "whole shards: 1; damaged and set aside: 2" in capsys.readouterr().out
    assert main(["data", "cache", str(tmp_path), "--verify"]) == 0
    again = shelf_at(tmp_path)
    assert 10 <= len(held(again, range(130))) <= 60
    again.close()


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "cache", str(tmp_path)]) == 2
    assert "the folder of a cache (data.cache.path) was wanted" in capsys.readouterr().err

"""What an encoder is, by content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qi_core.cache.identity import fingerprint, identity


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three megabytes and a norm."""
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    save_file({"matrix": torch.arange(750_000.0), "norm": torch.ones(64)}, folder / "part" / "weights.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_same_files_elsewhere_and_at_another_time_are_the_same(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(model, other)
    os.utime(other / "config.json", (1, 1))
    (other / "README.md").write_text("decides nothing")
    assert fingerprint(model) == fingerprint(other)
    assert identity({"path": str(model), "tiling": True}, "bf16") == identity({"path": other, "tiling": True}, "bf16")


@pytest.mark.parametrize("change", ["matrix", "one value of the norm", "config", "a name", "one more file"])
def test_other_files_are_another(model: Path, change: str) -> None:
    before = fingerprint(model)
    weights = model / "part" / "weights.safetensors"
    if change == "matrix":
        save_file({"matrix": torch.arange(750_000.0) * 1.001, "norm": torch.ones(64)}, weights)
    elif change == "one value of the norm":
        norm = torch.ones(64)
        norm[40] = 1.001
        save_file({"matrix": torch.arange(750_000.0), "norm": norm}, weights)
    elif change == "config":
        (model / "config.json").write_text('{"a": 1}')
    elif change == "a name":
        weights.rename(model / "part" / "model.safetensors")
    else:
        (model / "vocab.txt").write_text("a")
    assert fingerprint(model) != before


def test_settings_and_what_else_is_told_count(model: Path) -> None:
    settings = {"path": str(model), "max_length": 1024}
    assert identity(settings, "bf16") != identity(settings, "fp32")
    assert identity(settings) != identity({**settings, "max_length": 512})


def test_not_all_of_large_weights_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, pread = [0], os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        read[0] += length
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    fingerprint(model)
    assert read[0] < 20_000

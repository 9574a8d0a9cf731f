"""A sample that kills whoever makes it costs a run one sample."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qi_core.plane.process import KILLS
from qi_registry.registry import installed
from support.deadly_source import DEADLY, install
from support.small_run import RECIPE, here, losses, write_recipe

STEPS = 5
"""Of four samples each: it comes again in the second epoch."""
LOCAL = 'data.engine={name="local", processes=1}'


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site, tests = install(tmp_path / "site"), Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (site, tests))))
    monkeypatch.syspath_prepend(site)
    installed.cache_clear()
    lines = RECIPE.replace("steps = 60", f"steps = {STEPS}").replace("save_every = 7", "save_every = 0").split("\n")
    text = "\n".join(line for line in lines if line not in ("height = 16", "width = 32", "lengths = [1, 2]"))
    yield write_recipe(tmp_path, text.replace("rendered-text", "deadly"))
    installed.cache_clear()


@pytest.mark.slow
def test_the_run_goes_on_as_if_it_could_not_be_read(recipe: Path, tmp_path: Path) -> None:
    """Portions are of one sample, so that few processes have to start."""
    whole, local = tmp_path / "whole", tmp_path / "local"
    here("run", recipe, "--folder", whole, "--set", "source.harmless=true", "--set", "data.portion=1")
    here("run", recipe, "--folder", local, "--set", LOCAL, "--set", "data.portion=1")
    assert losses(local) == losses(whole)
    assert [skipped(each) for each in (local, whole)] == [[(f"{DEADLY}", KILLS)]] * 2
    log = (local / "producer.log").read_text()
    assert f"'{DEADLY}' {KILLS} (a worker was killed by signal 9, twice)" in log
    assert log.count("takes its place") == 1, "found once, though it comes again"


def skipped(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "skipped.jsonl").read_text().splitlines()
    return [(each["key"], each["reason"]) for each in map(json.loads, lines)]

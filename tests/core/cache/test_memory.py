"""Later epochs don't open files again, and train on the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import evolve
from PIL import Image

from qi_core import Pair, StoredError
from qi_core.blob import Blob
from qi_core.cache.encoders import CachedAutoencoder
from qi_core.cache.memory import Memory
from qi_core.testing import fakes
from qi_plugins.source_pairs.component import PreferencePairs
from support.caching import shelf_at
from support.small_run import RECIPE, here, losses, steps

HEAD, _, REST = RECIPE.partition("[source]")
TEXT = (
    HEAD
    + """[source]
name = "images"
path = "PICTURES"
side = 16
ratios = ["1:1"]
[sampler]"""
    + REST.partition("[sampler]")[2].replace("steps = 60\nbatch = 4", "steps = 9\nbatch = 3\nprefetch = 0")
    + """
[data]
portion = 2
[data.cache]
path = "CACHE"
"""
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for n in range(9):
        Image.effect_noise((24, 24), 60 + n).convert("RGB").save(pictures / f"{n}.png")
        (pictures / f"{n}.txt").write_text(f"noise {n}")
    path = tmp_path / "recipe.toml"
    text = TEXT.replace("PICTURES", str(pictures)).replace("CACHE", str(tmp_path / "cache"))
    path.write_text(text)
    return path


def test_who_is_remembered_is_not_opened(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qi_core.fit import Fit

    made: list[str] = []
    make = Fit.make

    def noted(self: Fit, entry: object, epoch: int) -> object:
        made.append(entry.key)  # type: ignore[attr-defined]
        return make(self, entry, epoch)  # type: ignore[arg-type]

    monkeypatch.setattr(Fit, "make", noted)
    here("run", recipe, "--folder", tmp_path / "a")
    assert sorted(made) == sorted(f"{n}.png" for n in range(9)), "three epochs, each picture once"
    made.clear()
    here("run", recipe, "--folder", tmp_path / "b")
    assert made == [], "nor by the next run"
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert len(steps(tmp_path / "b")) == 9
    touched = tmp_path / "pictures" / "4.png"
    Image.effect_noise((24, 24), 10).convert("RGB").save(touched)
    here("run", recipe, "--folder", tmp_path / "c")
    assert made == ["4.png"], "its file is another"


def test_who_is_remembered_was_let_through_by_the_same_list(recipe: Path, tmp_path: Path) -> None:
    listed = tmp_path / "listed.txt"
    path = str(listed).replace("\\", "/")
    recipe.write_text(recipe.read_text() + f'[[data.filters]]\nname = "listed"\npath = "{path}"\n')
    for run, key in (("a", "0.png"), ("b", "4.png")):
        listed.write_text(f"{key}\n")
        here("run", recipe, "--folder", tmp_path / run)
        refused = [json.loads(line)["key"] for line in (tmp_path / run / "skipped.jsonl").read_text().splitlines()]
        assert refused == [key]


def test_pairs_are_remembered_too_but_those_that_edit(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qi_plugins.source_pairs.fit import Fit
    from qi_plugins.source_pairs.rows import Couple

    made: list[str] = []
    make = Fit.make
    monkeypatch.setattr(Fit, "make", lambda self, couple: (made.append(couple.key), make(self, couple))[1])
    rows = [{"prompt": f"noise {n}", "winner": f"{n}.png", "loser": f"{n + 1}.png"} for n in range(6)]
    votes = tmp_path / "pictures" / "votes.jsonl"
    votes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = recipe.read_text().replace('"flow-matching"', '{ name = "dpo", beta = 10.0 }')
    text = text.replace('name = "images"', 'name = "pairs"\nsplit = "all"').replace(str(votes.parent), str(votes))
    recipe.write_text(text.replace("steps = 9", "steps = 4"))
    here("run", recipe, "--folder", tmp_path / "a")
    assert len(made) == len(set(made)) == 6, "two epochs, each pair once"
    made.clear()
    here("run", recipe, "--folder", tmp_path / "b")
    assert made == [], "nor by the next run"
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    fit, blob = PreferencePairs(path=str(votes))._fit(8), Blob(str(votes)).stamped()[0]
    couple = Couple(key="a", prompt="b", winner=blob, loser=blob, references=())
    assert fit.named(couple) is not None
    assert fit.named(evolve(couple, references=(blob,))) is None


def test_of_a_pair_with_errors_of_its_own_nothing_is_remembered(tmp_path: Path) -> None:
    """They would be missing the next time."""
    shelf = shelf_at(tmp_path)
    autoencoder = CachedAutoencoder(fakes.Pixels(), shelf, b"pixels")
    memory = Memory(shelf, autoencoder, b"pipeline")
    plain = Pair(key="a", prompt="b", winner=fakes.picture(2, 4, seed=0), loser=fakes.picture(2, 4, seed=1))
    own = evolve(plain, stored=(StoredError(seed=1, winner=0.5, loser=1.0),))
    for name, pair in ((b"plain", plain), (b"own", own)):
        memory.learn(name, pair)
    autoencoder.encode([plain.winner, plain.loser])  # type: ignore[list-item]
    found = memory.recall([b"plain", b"own"])
    assert [None if each is None else each.key for each in found] == ["a", None]
    shelf.close()

"""The source ``pairs``: which pairs come out of which row, how pictures are made to fit, what is skipped and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qi_core import Pair, Pairs, Place, QiError
from qi_core.testing import check_component, check_source
from qi_plugins.source_pairs.component import PreferencePairs


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with pictures a, b, c, d, each of one grey level of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate("abcd"):
        Image.new("RGB", (32, 32), (40 * number,) * 3).save(folder / f"{name}.png")
    return folder


def write(folder: Path, *rows: object) -> str:
    path = folder / "votes.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def plain(**row: Any) -> dict[str, Any]:
    return {"prompt": "a cat", "winner": "a.png", "loser": "b.png", **row}


def build(path: str, place: Place, **settings: Any) -> Any:
    return PreferencePairs(path=path, **{"side": 32, "split": "all", **settings}).build(place, 16)


def pairs(path: str, place: Place, **settings: Any) -> list[str]:
    """Every pair that a file gives, sorted: "ab" is a preferred to b."""
    source = build(path, place, **settings)
    drawn: Pairs = source.draw(source.state_dict()["samples"])
    names = {0: "a", 40: "b", 80: "c", 120: "d"}
    return sorted(names[grey(pair.winner)] + names[grey(pair.loser)] for pair in drawn)


def grey(image: Any) -> int:
    return int(image[0, 0, 0])


def test_it_is_a_component_and_a_source(data: Path) -> None:
    check_component(PreferencePairs)
    path = write(data, *(plain(prompt=f"cat {i}", loser=f"{'bcd'[i % 3]}.png") for i in range(5)))
    check_source(PreferencePairs(path=path, side=32, split="all"), multiple=16, count=13)


def test_a_row_names_winner_and_loser_or_a_gold_picture_in_the_winner_s_place(data: Path, place: Place) -> None:
    """Qwen-Image report, section 4: with a gold image only the worst generation is marked."""
    gold = {"prompt": "a cat", "gold": "d.png", "loser": "c.png"}
    path = write(data, plain(), gold, plain(gold="d.png"))
    assert pairs(path, place) == ["ab", "ab", "dc"]
    assert pairs(path, place, gold="also") == ["ab", "ab", "db", "dc"]


def test_a_ranking_gives_all_pairs_or_neighbours_or_its_ends(data: Path, place: Place) -> None:
    path = write(data, {"prompt": "a cat", "ranking": ["a.png", "b.png", "c.png"]})
    assert pairs(path, place) == ["ab", "ac", "bc"]
    assert pairs(path, place, pairs_of="adjacent") == ["ab", "bc"]
    assert pairs(path, place, pairs_of="ends") == ["ac"]


def test_pictures_of_one_rank_are_no_pair_and_are_counted(data: Path, place: Place) -> None:
    """Regression: whole groups that tie taught the order of their indices (flow_grpo)."""
    path = write(data, {"prompt": "a cat", "ranking": ["a.png", ["b.png", "c.png"], ["d.png"]]})
    assert pairs(path, place) == ["ab", "ac", "ad", "bd", "cd"]
    assert pairs(path, place, pairs_of="ends") == ["ad"]
    assert build(path, place).report() == {"tie": 1}
    level = write(data, plain(), {"prompt": "a cat", "ranking": [["a.png", "b.png", "c.png"]]})
    assert build(level, place).report() == {"tie": 3}


def test_a_ranking_without_a_pair_is_counted_and_a_gold_picture_can_make_it_one(data: Path, place: Place) -> None:
    empty = {"prompt": "a cat", "ranking": [[]], "gold": "d.png"}
    path = write(data, plain(), {"prompt": "a cat", "ranking": ["c.png"], "gold": "d.png"}, empty)
    assert pairs(path, place, gold="also") == ["ab", "dc"]
    assert build(path, place, gold="also").report() == {"ranking names no pair": 1}
    assert build(path, place).report() == {"ranking names no pair": 2}


BAD = {
    "all unsatisfactory": plain(verdict="all unsatisfactory"),
    "tie": plain(verdict="tie"),
    "verdict is unknown": plain(verdict="b is better"),
    "prompt missing": {"winner": "a.png", "loser": "b.png"},
    "prompt too long": plain(prompt="cat " * 10_000),
    "row names no pair": {"prompt": "a cat", "winner": "a.png"},
    "winner and loser are one file": plain(loser="a.png"),
    "winner is no path": plain(winner=3),
    "ranking is no list of paths": {"prompt": "a cat", "ranking": "a.png"},
    "ranking names no pair": {"prompt": "a cat", "ranking": ["a.png"], "gold": "b.png"},
    "ranking names a picture twice": {"prompt": "a cat", "ranking": ["a.png", "b.png", "a.png"]},
    "references are no list of paths": plain(references="a.png"),
    "line is no JSON object": "{",
    "winner: cannot be read": plain(winner="gone.png"),
    "loser: not a picture": plain(loser="votes.jsonl"),
    "reference: cannot be read": plain(references=["gone.png"]),
    "loser: too small": plain(loser="small.png"),
    "winner: crop would cut off too much": plain(winner="strip.png"),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_used_is_counted_and_listed_with_its_reason(data: Path, place: Place, reason: str) -> None:
    Image.new("RGB", (16, 16)).save(data / "small.png")
    Image.new("RGB", (640, 32)).save(data / "strip.png")
    path = write(data, plain(), BAD[reason])
    settings: dict[str, Any] = {"ratios": ("1:1",)} if reason.endswith("cut off too much") else {}
    assert build(path, place, **settings).report() == {reason: 1}
    (line,) = (place.folder / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == reason
    assert json.loads(line)["key"].startswith("line 2")


def test_both_pictures_come_to_the_size_nearest_to_the_winner_and_none_is_squashed(data: Path, place: Place) -> None:
    Image.new("RGB", (64, 32)).save(data / "wide.png")
    rows = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 64, axis=1)
    Image.fromarray(np.repeat(rows, 3, axis=2)).save(data / "square.png")
    path = write(data, plain(winner="wide.png", loser="square.png"), plain(winner="square.png", loser="wide.png"))
    source = build(path, place, side=32, ratios=("1:1", "2:1"), max_cropped=0.7)
    by_winner = {pair.key.split()[2]: pair for pair in source.draw(2)}
    wide, square = by_winner["wide.png"], by_winner["square.png"]
    # 32 * 32 pixels at 2:1 are 45 x 23; on the grid of 16 that is 48 x 16.
    assert wide.winner.shape == wide.loser.shape == (3, 16, 48)
    assert square.winner.shape == square.loser.shape == (3, 32, 32)
    # Of the square the middle third of its rows is left: 4 * 21.3 to 4 * 42.7, a step of 16/3 a row.
    first, last = wide.loser[0, 0, 24].item(), wide.loser[0, -1, 24].item()
    assert (first, last) == (pytest.approx(4 * 22, abs=4), pytest.approx(4 * 42, abs=4))


def test_references_come_with_the_pair_in_their_own_shape(data: Path, place: Place) -> None:
    Image.new("RGB", (64, 32), (9, 9, 9)).save(data / "before.png")
    (pair,) = build(write(data, plain(references=["before.png", "c.png"])), place, side=32).draw(1)
    assert [tuple(image.shape) for image in pair.references] == [(3, 16, 48), (3, 32, 32)]
    assert grey(pair.references[0]) == 9


def test_a_prompt_is_held_out_or_trained_on_in_every_run_alike(data: Path, place: Place) -> None:
    path = write(data, *(plain(prompt=f"cat {i // 2}") for i in range(800)))

    def prompts(split: str, seed: int) -> set[str]:
        run = Place(device=torch.device("cpu"), dtype=torch.float32, seed=seed, folder=Path(path).parent)
        source = build(path, run, split=split, held_out=0.25)
        return {pair.prompt for pair in source.draw(source.state_dict()["samples"])}

    train, held_out = prompts("train", 0), prompts("held-out", 0)
    assert not train & held_out
    assert len(train | held_out) == 400
    assert 70 < len(held_out) < 130
    assert prompts("held-out", 5) == held_out


def test_a_picture_that_proves_broken_costs_its_pair_and_nothing_else(data: Path, place: Place) -> None:
    whole = (data / "b.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data / "b.png")
    cut = (data / "b.png").read_bytes()[:-1000]
    (data / "b.png").write_bytes(cut)
    source = build(write(data, plain(), plain(loser="c.png")), place)
    assert source.report() == {}
    assert [pair.key for pair in source.draw(3)] == ["line 2: a.png > c.png"] * 3
    assert source.report() == {"loser: cannot be decoded": 1}
    assert whole != cut


def test_a_pair_that_breaks_costs_its_seat_alone(data: Path, place: Place) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data / "e.png")
    path = write(data, *(plain(prompt=f"cat {i}", loser="e.png" if i in (1, 4) else "b.png") for i in range(6)))
    planned = [pair.key for pair in build(path, place).draw(12)]
    (data / "e.png").write_bytes((data / "e.png").read_bytes()[:-1000])
    source = build(path, place)
    found = [pair.key for pair in source.draw(12)]
    assert [was for was, now in zip(planned, found, strict=True) if was != now] == [k for k in planned if "e.png" in k]
    assert not any("e.png" in key for key in found)
    assert source.report() == {"loser: cannot be decoded": 2}
    assert len((place.folder / "skipped.jsonl").read_text().splitlines()) == 2


def test_nothing_usable_is_one_line_that_says_why(data: Path, place: Place) -> None:
    path = write(data, BAD["tie"], BAD["all unsatisfactory"])
    with pytest.raises(QiError, match=r"none usable: 1 x tie, 1 x all unsatisfactory; wanted rows with prompt"):
        build(path, place)
    with pytest.raises(QiError, match="0 pairs found in split = 'held-out'"):
        build(write(data, plain()), place, split="held-out", held_out=0.0)
    with pytest.raises(QiError, match="nothing is there"):
        build(str(data / "none.jsonl"), place)


def test_several_files_have_keys_of_their_own(data: Path, place: Place) -> None:
    for name in ("one", "two"):
        Path(write(data, plain())).rename(data / f"{name}.jsonl")
    drawn: list[Pair] = list(build(str(data / "*.jsonl"), place).draw(2))
    assert sorted(pair.key for pair in drawn) == [f"{name}.jsonl/line 1: a.png > b.png" for name in ("one", "two")]


def test_a_resume_refuses_other_data(data: Path, place: Place) -> None:
    state = build(write(data, plain(), plain(loser="c.png")), place).state_dict()
    with pytest.raises(QiError, match=r"the data changed since the checkpoint .2 usable"):
        build(write(data, plain()), place).load_state_dict(state)

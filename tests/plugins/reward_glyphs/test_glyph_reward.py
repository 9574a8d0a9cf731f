"""Reward ``glyph-match``: right glyphs are worth most, wrong ones less, and nothing is judged that cannot be told."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Candidate, Place, QiError
from qi_core.testing import check_component, check_reward
from qi_plugins.reward_glyphs.component import GlyphMatch
from qi_plugins.reward_glyphs.live import NO_SUCH_SIZE, NO_SUCH_TEXT, Matching, distance
from qi_plugins.source_mixture.mixture import Mixture, Part
from qi_plugins.source_text.component import RenderedText
from qi_plugins.source_text.live import TextSource

COLOURS = ("white", "red", "yellow", "black", "blue")
STRINGS = RenderedText(width=80, lengths=(1, 5), foreground=COLOURS, background=COLOURS)
PLAIN = RenderedText(width=80, lengths=(1, 5))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=tmp_path)


def drawn(place: Place, count: int, source: RenderedText = STRINGS) -> list[Candidate]:
    """The source's own pictures of its own strings."""
    live = source.build(place, 1)
    return [
        Candidate(key=str(n), group=str(n // 2), prompt=sample.prompt, image=sample.image, text=sample.text)
        for n, sample in enumerate(live.draw(count))
    ]


def picture(place: Place, text: str) -> Tensor:
    """(3, 16, 80) uint8: a word in white on black."""
    live = PLAIN.build(place, 1)
    assert isinstance(live, TextSource)
    return torch.from_numpy(live.typesets()[0].mask(text)).expand(3, -1, -1).clone()


def blend(one: Tensor, other: Tensor, part: float) -> Tensor:
    return torch.lerp(one.float(), other.float(), part).round().to(torch.uint8)


def values(reward: Matching, *candidates: Candidate) -> list[float | None]:
    return list(asyncio.run(reward.score(candidates)).values)


def value(reward: Matching, image: Tensor, text: str) -> float:
    found = values(reward, Candidate(key="k", group="g", prompt="", image=image, text=text))[0]
    assert found is not None
    return found


def reward(place: Place, score: Any, source: Any = PLAIN) -> Matching:
    return GlyphMatch(source=source, score=score).build(place)


@pytest.mark.parametrize("score", ["characters", "string", "likeness"])
def test_it_keeps_the_contract(place: Place, score: Any) -> None:
    check_component(GlyphMatch)
    check_reward(GlyphMatch(source=STRINGS, score=score), candidates=drawn(place, 6))


@pytest.mark.parametrize("score", ["characters", "string", "likeness"])
def test_the_sources_own_pictures_are_right_and_those_of_other_strings_are_not(place: Place, score: Any) -> None:
    live, own = reward(place, score, STRINGS), drawn(place, 24)
    assert min(v for v in values(live, *own) if v is not None) >= 0.999
    others = [evolve(one, image=other.image) for one, other in zip(own, own[1:] + own[:1], strict=True)]
    found = [v for v in values(live, *others) if v is not None]
    assert len(found) == 24
    assert sum(found) / 24 < 0.25


def test_each_wrong_missing_or_added_character_costs_its_share(place: Place) -> None:
    live = reward(place, "characters")
    assert value(live, picture(place, "HELLO"), "HELLO") == 1.0
    assert value(live, picture(place, "HEXXO"), "HELLO") == pytest.approx(0.6)
    assert value(live, picture(place, "HELO"), "HELLO") == pytest.approx(0.8)
    assert value(live, picture(place, "HILL"), "HI") == 0.0, "text beyond what was asked for costs, too"
    assert value(live, torch.zeros(3, 16, 80, dtype=torch.uint8), "HI") == 0.0


def test_an_overdrawn_letter_counts_as_wrong(place: Place) -> None:
    both = torch.maximum(picture(place, "HEMO"), picture(place, "HEWO"))
    assert value(reward(place, "characters"), both, "HEMO") == pytest.approx(0.75)
    assert value(reward(place, "string"), both, "HEMO") == 0.0


def test_likeness_climbs_all_the_way_from_the_look_alike_to_the_right_letter(place: Place) -> None:
    live = reward(place, "likeness")
    wrong, right = picture(place, "QUEEN"), picture(place, "OUEEN")
    way = [value(live, blend(wrong, right, part), "OUEEN") for part in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert way[0] == pytest.approx(0.8, abs=0.01), "one letter of five is wrong, however much the two look alike"
    assert way[-1] == pytest.approx(1.0, abs=0.01)
    assert all(later - sooner > 0.02 for sooner, later in pairwise(way)), way
    steps = [value(reward(place, "characters"), blend(wrong, right, part), "OUEEN") for part in (0.0, 0.2, 0.4)]
    assert len(set(steps)) == 1, "which counting characters does not"


def test_likeness_is_nothing_without_ink_and_less_with_ink_beside_the_text(place: Place) -> None:
    live = reward(place, "likeness")
    dice = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (3, 16, 80), generator=dice, dtype=torch.uint8)
    assert value(live, torch.full((3, 16, 80), 90, dtype=torch.uint8), "HI") == 0.0
    assert value(live, noise, "HI") < 0.1
    assert value(live, picture(place, "THIS"), "HI") < 0.6 < 0.99 < value(live, picture(place, "HI"), "HI")


def test_the_prompts_quotation_is_the_text_where_no_other_is_told(place: Place) -> None:
    live = reward(place, "string")
    told = Candidate(key="k", group="g", prompt='the word "HELLO" in white', image=picture(place, "HELLO"))
    assert values(live, told, evolve(told, prompt='the word "HALLO" in white')) == [1.0, 0.0]


def test_what_cannot_be_told_is_left_out_and_counted(place: Place) -> None:
    live = reward(place, "characters")
    good = Candidate(key="k", group="g", prompt="a word", image=picture(place, "HI"), text="HI")
    bad = [
        evolve(good, text=""),
        evolve(good, text="hi"),
        evolve(good, text="TOOLONG"),
        evolve(good, image=torch.zeros(3, 32, 80, dtype=torch.uint8)),
    ]
    found = asyncio.run(live.score([good, *bad]))
    assert found.values == (1.0, None, None, None, None)
    assert found.failures == {"no text asked for": 1, NO_SUCH_TEXT: 2, NO_SUCH_SIZE: 1}


def test_strings_of_several_sources_are_each_read_by_their_own_glyphs(place: Place) -> None:
    chinese = RenderedText(width=80, alphabet="chinese", charset=64, lengths=(1, 4))
    live = GlyphMatch(source=PLAIN, also=(chinese,), score="string").build(place)
    assert set(values(live, *drawn(place, 12, PLAIN), *drawn(place, 12, chinese))) == {1.0}
    assert None in values(reward(place, "string"), *drawn(place, 12, chinese))


def test_a_source_without_glyphs_is_refused(place: Place) -> None:
    mixed = Mixture(parts=(Part(weight=1.0, source=PLAIN),))
    with pytest.raises(QiError, match=r"cannot be read back; wanted sources of strings"):
        reward(place, "string", mixed)


@pytest.mark.parametrize(
    ("read", "text", "edits"), [("", "", 0), ("", "AB", 2), ("KITTEN", "SITTING", 3), ("AB", "BA", 2), ("X", "X", 0)]
)
def test_the_distance_of_strings(read: str, text: str, edits: int) -> None:
    assert distance(read, text) == distance(text, read) == edits

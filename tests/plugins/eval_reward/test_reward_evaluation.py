"""Evaluation ``reward``: means, what could not be judged, and wins against the first pictures, whatever is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from qi_core import Candidate, Painter, Place, QiError
from qi_core.place import Closing
from qi_core.reward import Weighted
from qi_core.testing import check_component, check_evaluation, fakes
from qi_plugins.eval_reward.component import RewardEvaluation
from qi_plugins.source_text.component import RenderedText
from support.rollouts import Judge as Says
from support.rollouts import Prompts, Ranking, brightness

SMALL = RewardEvaluation(prompts=Prompts(), rewards=(Weighted(name="bright", reward=Says()),), count=5, shown=2)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


@pytest.fixture
def build(place: Place) -> Iterator[Callable[..., Any]]:
    """Live evaluations, closed at the end."""
    built: list[Any] = []

    def make(settings: RewardEvaluation = SMALL, here: Place = place) -> Any:
        built.append(settings.build(here))
        return built[-1]

    yield make
    for live in built:
        live.close()


def painter(place: Place, light: float = 0.0) -> Painter:
    """Of an untrained model whose pictures are lighter than they were."""
    network = fakes.network(place)
    with torch.no_grad():
        network.outward.bias.add_(light)  # type: ignore[union-attr, operator]
    return evolve(fakes.painter(place), model=network)


def test_it_keeps_the_contracts() -> None:
    check_component(RewardEvaluation)
    check_evaluation(SMALL)


def test_the_mean_over_pictures_decoded_whole(build: Callable[..., Any], place: Place) -> None:
    live = build()
    assert isinstance(live, Closing)
    found = live.evaluate(painter(place), 7)
    images = painter(place).paint(["ab", "cd", "ef", "g", "hi"], [(2, 2), (2, 3), (2, 2), (2, 3), (2, 2)])
    lights = [float(((image + 1) * 127.5).round().mean()) / 255 for image in images]
    assert found.scalars == {"reward": pytest.approx(sum(lights) / 5), "masked": 0.0}
    assert [picture.caption for picture in found.pictures] == [f"{lights[0]:.3g}: ab", f"{lights[1]:.3g}: cd"]


def test_wins_are_against_the_first_pictures_even_after_a_resume(build: Callable[..., Any], place: Place) -> None:
    live = build()
    assert "wins" not in live.evaluate(painter(place), 0).scalars
    assert live.evaluate(painter(place), 5).scalars["wins"] == 0.5, "equal pictures are half a win each"
    assert live.evaluate(painter(place, 0.3), 10).scalars["wins"] == 1.0
    assert build().evaluate(painter(place, -0.3), 15).scalars["wins"] == 0.0
    # Killed before its first checkpoint, a run begins again with the first evaluation.
    assert "wins" not in build().evaluate(painter(place), 0).scalars


def test_against_another_run(build: Callable[..., Any], place: Place, tmp_path: Path) -> None:
    build().evaluate(painter(place), 0)
    later = tmp_path / "later"
    later.mkdir()
    live = build(evolve(SMALL, against=tmp_path), evolve(place, folder=later))
    assert live.evaluate(painter(place, 0.3), 0).scalars["wins"] == 1.0
    assert not list(later.iterdir()), "nothing of its own is kept"
    with pytest.raises(QiError, match=r"reward.json: not there; wanted the first scores of another run"):
        build(evolve(SMALL, against=later))


def test_first_scores_of_other_prompts_are_refused(build: Callable[..., Any], place: Place) -> None:
    build().evaluate(painter(place), 0)
    with pytest.raises(QiError, match=r"first scores of other prompts; .* give the evaluation another title"):
        build(evolve(SMALL, count=4))
    with pytest.raises(QiError, match="first scores of other rewards"):
        build(evolve(SMALL, rewards=(Weighted(name="bright", weight=2.0, reward=Says()),)))


def test_several_rewards_are_told_apart_and_what_is_missing_is_masked(build: Callable[..., Any], place: Place) -> None:
    def says(candidate: Candidate) -> float | None:
        return None if candidate.prompt == "ab" else 2.0

    rewards = (
        Weighted(name="bright", weight=0.5, reward=Says()),
        Weighted(name="two", weight=2.0, reward=Says(says=says)),
        Weighted(name="held-out", weight=0.0, reward=Says(says=lambda candidate: -brightness(candidate))),
    )
    found = build(evolve(SMALL, rewards=rewards)).evaluate(painter(place), 0)
    one = build(evolve(SMALL, title="one")).evaluate(painter(place), 0)
    assert found.scalars["masked"] == found.scalars["masked/two/no reason told"] == pytest.approx(0.2)
    assert found.scalars["reward/two"] == 2.0
    assert found.scalars["reward/bright"] == one.scalars["reward"]
    assert found.scalars["watched/held-out"] == pytest.approx(-one.scalars["reward"])
    four = [float(picture.caption.split(":")[0]) for picture in
            build(evolve(SMALL, title="all", shown=5)).evaluate(painter(place), 0).pictures][1:]  # fmt: skip
    assert found.scalars["reward"] == pytest.approx(0.5 * sum(four) / 4 + 4.0, abs=0.01), "of those told by both"
    assert found.pictures[0].caption.startswith("bright 0.")
    assert ", two ?, held-out -0." in found.pictures[0].caption


def test_pictures_that_are_no_numbers_are_masked(build: Callable[..., Any], place: Place) -> None:
    found = build().evaluate(painter(place, float("nan")), 0)
    assert found.scalars == {"masked": 1.0, "masked/values that are no numbers": 1.0}


def test_it_paints_references_and_real_prompts(build: Callable[..., Any], place: Place) -> None:
    edits = build(evolve(SMALL, title="edits", prompts=Prompts(references=True))).evaluate(painter(place), 0)
    plain = build(evolve(SMALL, title="plain")).evaluate(painter(place), 0)
    assert edits.scalars["reward"] != plain.scalars["reward"]
    words = RenderedText(split="held-out", height=8, width=24)
    assert build(evolve(SMALL, title="words", prompts=words)).evaluate(painter(place), 0).scalars["masked"] == 0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="compares the pictures of a group"):
        evolve(SMALL, rewards=(Weighted(name="rank", reward=Ranking(seen=[])),))
    with pytest.raises(ValueError, match="has none with a weight"):
        evolve(SMALL, rewards=(Weighted(name="a", weight=0.0, reward=Says()),))
    with pytest.raises(ValueError, match="two rewards are called 'a'"):
        evolve(SMALL, rewards=(Weighted(name="a", reward=Says()), Weighted(name="a", reward=Says())))
    with pytest.raises(ValueError, match="'title'"):
        evolve(SMALL, title="../up")

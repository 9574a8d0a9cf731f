"""Pictures painted by several ranks are those of one, and every rank makes as many calls of the model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Guidance, Place, QiError
from qi_core.generate import Painter
from qi_core.testing import fakes
from support.replicas import Replica, all_well, on_ranks
from support.rollouts import Wandering

PROMPTS = ["ab", "cd", "", "e", "fgh"]
SIZES = [(2, 3), (4, 4), (2, 2), (6, 5), (2, 3)]
REFERENCES = [[], [fakes.picture(3, 2, seed=0)], [], [], [fakes.picture(2, 2, seed=1)]]


@pytest.fixture
def painter(tmp_path: Path) -> Painter:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=tmp_path)
    return evolve(fakes.painter(place), sampler=Wandering(), guidance=Guidance(scale=2.0, negative="zz"))


def counted(painter: Painter, rank: Replica) -> tuple[Painter, list[int]]:
    """Of this rank, and how many pictures it drew at each call."""
    network, calls = deepcopy(painter.model), list[int]()
    velocity = network.velocity

    def watched(latents: Any, *rest: Any) -> Any:
        calls.append(len(latents) // 2)  # with guidance each twice
        return velocity(latents, *rest)

    network.velocity = watched  # type: ignore[method-assign]
    return evolve(painter, model=network, strategy=rank), calls


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("tensor", [1, 2])
def test_every_rank_gets_the_pictures_of_one(painter: Painter, ranks: int, tensor: int) -> None:
    alone = painter.paint(PROMPTS, SIZES, REFERENCES)

    def paints(rank: Replica) -> tuple[list[Tensor], list[int]]:
        own, calls = counted(painter, rank)
        return own.paint(PROMPTS, SIZES, REFERENCES, batch=1), calls

    found = all_well(on_ranks(ranks * tensor, paints, tensor))
    for images, _ in found:
        assert [image.shape for image in images] == [image.shape for image in alone]
        for image, wanted in zip(images, alone, strict=True):
            torch.testing.assert_close(image, wanted, atol=1e-5, rtol=0)
    most = {2: 3, 3: 3, 8: 1}[ranks]  # 36 + 36 tokens, 30 + 22 + 20 (three small ones), one each
    assert {len(calls) for _, calls in found} == {3 * most}, "or one would wait for another's part of the weights"


def test_nothing_to_paint(painter: Painter) -> None:
    assert all_well(on_ranks(2, lambda rank: evolve(painter, strategy=rank).paint([], []))) == [[], []]


def test_a_rank_that_cannot_draw_ends_all(painter: Painter) -> None:
    def paints(rank: Replica) -> list[Tensor]:
        own, _ = counted(painter, rank)
        if rank.replica:
            own.model.velocity = lambda *_: torch.zeros(()).view(2)  # type: ignore[method-assign, assignment, return-value]
        return own.paint(PROMPTS, SIZES)

    zero, one = on_ranks(2, paints)
    assert isinstance(one, RuntimeError)
    assert isinstance(zero, QiError)
    assert str(zero).startswith("rank 1: RuntimeError: shape")

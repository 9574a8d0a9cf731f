"""Dice: what a seed means never changes, or no run could be repeated."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from qi_core import Dice


@pytest.mark.parametrize(
    ("seed", "step", "slot", "purpose", "drawn"),
    [
        (0, 0, 0, "train", [756013351, 626245476, 586775903]),
        (5, 1234, 31, "caption", [2073486687, 1492405128, 1659132985]),
        (2**40, 7, 0, "paint", [1403018885, 665746579, 749125584]),
    ],
)
def test_the_numbers_are_the_same_for_ever(seed: int, step: int, slot: int, purpose: str, drawn: list[int]) -> None:
    assert torch.randint(0, 2**31, (3,), generator=Dice(seed, step).roll(slot, purpose)).tolist() == drawn


def test_normal_numbers_are_the_same_on_every_machine() -> None:
    drawn = torch.randn(2, generator=Dice(0, 0).roll(0))
    torch.testing.assert_close(drawn, torch.tensor([0.9961264729, -0.2000423223]))


def test_every_seed_step_slot_and_purpose_has_a_stream_of_its_own() -> None:
    rolls = [Dice(a, b).roll(c, d).initial_seed() for a, b, c, d in product((0, 1, 11), (0, 1, 11), (0, 1, 11), "ab")]
    assert len(set(rolls)) == len(rolls) == 54


def test_a_roll_leaves_the_process_own_generator_alone() -> None:
    before = torch.get_rng_state()
    torch.randn(3, generator=Dice(0, 0).roll(0))
    assert torch.equal(torch.get_rng_state(), before)

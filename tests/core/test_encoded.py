"""Encoded batches can be counted, cut and moved as those that they were made of."""

from __future__ import annotations

import torch

from qi_core import Condition, EncodedPairs, Latents, StoredError


def pairs() -> EncodedPairs:
    """A pair of six tokens, one of four with a reference of two, one of two; winner k is k, loser k is -k."""
    grids = ((1, 2, 3), (1, 2, 2), (1, 1, 2))
    tokens = torch.tensor([1.0] * 6 + [2.0] * 4 + [3.0] * 2)[:, None]
    references = Latents(tokens=torch.full((2, 1), 0.5), grids=((1, 1, 2),))
    text = torch.tensor([1.0, 2.0, 2.0, 3.0])[:, None]
    return EncodedPairs(
        keys=("a", "b", "c"),
        slots=(4, 0, 2),
        winners=Latents(tokens=tokens, grids=grids),
        losers=Latents(tokens=-tokens, grids=grids),
        condition=Condition(text=text, lengths=(1, 2, 1), references=references, reference_counts=(0, 1, 0)),
        stored=((), (StoredError(seed=1, winner=0.0, loser=1.0),), ()),
    )


def test_a_picked_pair_keeps_all_that_is_its_own() -> None:
    found = pairs().pick([2, 1])
    assert (found.keys, found.slots, found.costs) == (("c", "b"), (2, 0), (4, 8))
    assert found.winners.tokens.flatten().tolist() == [3.0] * 2 + [2.0] * 4
    assert torch.equal(found.losers.tokens, -found.winners.tokens)
    assert found.condition.text.flatten().tolist() == [3.0, 2.0, 2.0]
    assert (found.condition.lengths, found.condition.counts) == ((1, 2), (0, 1))
    assert [len(errors) for errors in found.stored] == [0, 1]


def test_micro_batches_end_to_end_are_the_batch() -> None:
    whole = pairs()
    parts = whole.split(2)
    assert [part.keys for part in parts] == [("a",), ("b", "c")]
    back = EncodedPairs.cat(parts)
    assert (back.keys, back.slots, back.stored, back.costs) == (whole.keys, whole.slots, whole.stored, whole.costs)
    assert torch.equal(back.losers.tokens, whole.losers.tokens)
    assert whole.split(1) == [whole], "nothing is copied"


def test_a_pair_is_broken_with_any_of_its_values() -> None:
    for where in ("winners", "losers", "text", "references"):
        whole = pairs()
        references = whole.condition.references
        assert references is not None
        tokens = {
            "winners": whole.winners.tokens[6:10],
            "losers": whole.losers.tokens[6:10],
            "text": whole.condition.text[1:3],
            "references": references.tokens,
        }
        assert whole.broken() == []
        tokens[where][1] = torch.inf
        assert whole.broken() == [1], where


def test_all_of_it_moves() -> None:
    moved = pairs().to(torch.device("meta"))
    assert moved.condition.references is not None
    for latents in (moved.winners, moved.losers, moved.condition.references):
        assert latents.tokens.is_meta
    assert moved.condition.text.is_meta

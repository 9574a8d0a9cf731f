"""Packed records: what goes in comes out, whatever the sizes."""

from __future__ import annotations

import torch

from qi_core import Condition, Latents, Sample, Samples


def test_latents_split_and_cat_are_inverse() -> None:
    latents = Latents(tokens=torch.randn(2 * 3 + 1 * 4 + 2 * 2 * 5, 7), grids=((1, 2, 3), (1, 1, 4), (2, 2, 5)))
    parts = latents.split()
    assert [part.grids for part in parts] == [((1, 2, 3),), ((1, 1, 4),), ((2, 2, 5),)]
    back = Latents.cat(parts)
    assert torch.equal(back.tokens, latents.tokens)
    assert back.grids == latents.grids


def test_a_mean_over_a_sample_never_weighs_samples_by_their_size() -> None:
    """With packed sizes a mean over the batch's tokens would let big pictures drown small ones."""
    values = torch.cat([torch.full((2, 3), 1.0), torch.full((100, 3), 5.0)])
    latents = Latents(tokens=values, grids=((1, 1, 2), (1, 10, 10)))
    assert torch.equal(latents.sample_mean(values), torch.tensor([1.0, 5.0]))
    assert latents.per_token(torch.tensor([1.0, 5.0]))[:, 0].tolist() == values[:, 0].tolist()


def test_conditions_keep_each_samples_references() -> None:
    references = Latents(tokens=torch.arange(10.0)[:, None], grids=((1, 1, 1), (1, 2, 2), (1, 1, 5)))
    condition = Condition(
        text=torch.arange(6.0)[:, None], lengths=(1, 3, 2), references=references, reference_counts=(2, 0, 1)
    )
    first, second, third = condition.split()
    assert first.references is not None
    assert first.references.grids == ((1, 1, 1), (1, 2, 2))
    assert second.references is None
    assert third.references is not None
    assert third.references.tokens[:, 0].tolist() == [5, 6, 7, 8, 9]
    back = Condition.cat([first, second, third])
    assert torch.equal(back.text, condition.text)
    assert back.counts == (2, 0, 1)
    assert back.references is not None
    assert torch.equal(back.references.tokens, references.tokens)


def test_micro_batches_keep_their_slots() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    batch = Samples(items=tuple(Sample(key=str(i), prompt="", image=image) for i in range(7)))
    parts = batch.split(3)
    assert [part.slots for part in parts] == [(0, 1), (2, 3), (4, 5, 6)]
    assert sum((part.items for part in parts), ()) == batch.items

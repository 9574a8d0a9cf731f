"""Attention by groups, with padding inside or without, is attention sample by sample."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from qi_plugins.mmdit import attention as module
from qi_plugins.mmdit.attention import attention, make_plan

CPU = torch.device("cpu")
HEADS, CHANNELS = 2, 8


def runs(lengths: list[int], start: int = 0) -> list[range]:
    return [range(a, b) for a, b in pairwise(accumulate(lengths, initial=start))]


def by_hand(q: Tensor, k: Tensor, v: Tensor, queries: list[list[range]], keys: list[list[range]]) -> Tensor:
    out = torch.zeros(len(q), HEADS, CHANNELS)
    for own_queries, own_keys in zip(queries, keys, strict=True):
        asking = torch.tensor([i for run in own_queries for i in run])
        asked = torch.tensor([i for run in own_keys for i in run])
        scores = torch.einsum("qhe,khe->hqk", q[asking], k[asked]) / CHANNELS**0.5
        out[asking] = torch.einsum("hqk,khe->qhe", scores.softmax(-1), v[asked])
    return out.flatten(1)


@pytest.mark.parametrize("texts", [[3], [3, 3], [3, 5, 1], [5, 3, 5, 3]])
@pytest.mark.parametrize("pad", [0, 100])
@pytest.mark.parametrize("only_images_ask", [False, True])
def test_each_sample_meets_itself(
    monkeypatch: pytest.MonkeyPatch, texts: list[int], pad: int, only_images_ask: bool
) -> None:
    monkeypatch.setattr(module, "PAD_UP_TO", pad)
    images = [4, 2, 4, 4][: len(texts)]
    keys = [list(pair) for pair in zip(runs(texts), runs(images, sum(texts)), strict=True)]
    queries = [[run] for run in runs(images)] if only_images_ask else keys
    generator = torch.Generator().manual_seed(0)
    rows = sum(images) if only_images_ask else sum(texts + images)
    q = torch.randn(rows, HEADS, CHANNELS, generator=generator).requires_grad_()
    k, v = (torch.randn(sum(texts + images), HEADS, CHANNELS, generator=generator).requires_grad_() for _ in range(2))

    plan = make_plan(queries, keys, CPU, "auto")
    found, expected = attention(q, k, v, plan), by_hand(q, k, v, queries, keys)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator)
    ours = torch.autograd.grad(found, (q, k, v), weights)
    for a, b in zip(ours, torch.autograd.grad(expected, (q, k, v), weights), strict=True):
        torch.testing.assert_close(a, b)


def test_equal_lengths_are_one_call_and_one_sample_is_not_moved() -> None:
    two = make_plan([[range(4)], [range(4, 8)]], [[range(4)], [range(4, 8)]], CPU, "sdpa")
    assert [group.samples for group in two.groups] == [2]
    assert two.queries is None
    assert two.mask is None


def test_what_stands_in_the_padding_is_inert() -> None:
    """Row 0 fills the padding: changing it changes only the sample it belongs to."""
    keys = [[range(2)], [range(2, 7)], [range(7, 9)]]
    plan = make_plan(keys, keys, CPU, "auto")
    assert plan.mask is not None
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, HEADS, CHANNELS, generator=generator) for _ in range(3))
    before = attention(q, k, v, plan)
    for x in (q, k, v):
        x[0] = 1e4
    after = attention(q, k, v, plan)
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[:2], after[:2])

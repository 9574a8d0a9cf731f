"""Attention by groups, in one table or in order, is attention sample by sample."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from qi_core import QiError
from qi_plugins.mmdit.attention import attention, can_varlen, plan_in_order, plan_table

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
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("only_images_ask", [False, True])
def test_each_sample_meets_itself(texts: list[int], table: bool, only_images_ask: bool) -> None:
    images = [4, 2, 4, 4][: len(texts)]
    both = [n for pair in zip(texts, images, strict=True) for n in pair]
    if table:  # all texts, then all images
        keys = [list(pair) for pair in zip(runs(texts), runs(images, sum(texts)), strict=True)]
    else:  # sample by sample
        keys = [[text, image] for text, image in batched(runs(both))]
    queries = [[run] for run in runs(images)] if only_images_ask else keys
    generator = torch.Generator().manual_seed(0)
    rows = sum(images) if only_images_ask else sum(both)
    q = torch.randn(rows, HEADS, CHANNELS, generator=generator).requires_grad_()
    k, v = (torch.randn(sum(both), HEADS, CHANNELS, generator=generator).requires_grad_() for _ in range(2))

    if table:
        plan = plan_table(queries, keys, CPU)
    else:
        lengths = [sum(map(len, own)) for own in keys]
        plan = plan_in_order(images if only_images_ask else lengths, lengths, CPU)
    found, expected = attention(q, k, v, plan), by_hand(q, k, v, queries, keys)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator)
    ours = torch.autograd.grad(found, (q, k, v), weights)
    for a, b in zip(ours, torch.autograd.grad(expected, (q, k, v), weights), strict=True):
        torch.testing.assert_close(a, b)


def batched(both: list[range]) -> list[tuple[range, range]]:
    return list(zip(both[::2], both[1::2], strict=True))


def test_what_stands_in_empty_slots_is_inert() -> None:
    """Row 0 stands in for what is not there: changing it changes only the sample it belongs to."""
    keys = [[range(2)], [range(2, 7)], [range(7, 9)]]
    plan = plan_table(keys, keys, CPU)
    assert plan.mask is not None
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, HEADS, CHANNELS, generator=generator) for _ in range(3))
    before = attention(q, k, v, plan)
    for x in (q, k, v):
        x[0] = 1e4
    after = attention(q, k, v, plan)
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[:2], after[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("table", [False, True])
def test_a_kernel_that_cannot_be_had_is_told(dtype: torch.dtype, table: bool) -> None:
    rows = [[run] for run in runs([2, 3])]
    plan = plan_table(rows, rows, CPU, "varlen") if table else plan_in_order([2, 3], [2, 3], CPU, "varlen")
    q, k, v = torch.randn(3, 5, HEADS, CHANNELS).to(dtype)
    with pytest.raises(QiError, match=r'"varlen": not for torch.*head_dim 8 on cpu; .* use "auto" or "sdpa"'):
        attention(q, k, v, plan)


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "capability", "works"),
    [
        ("cuda", torch.bfloat16, 128, (8, 0), True),
        ("cuda", torch.bfloat16, 128, (7, 5), False),
        ("cuda", torch.bfloat16, 12, (9, 0), False),
        ("cuda", torch.float32, 128, (9, 0), False),
        ("cpu", torch.bfloat16, 128, (9, 0), False),
    ],
)
def test_where_the_kernel_for_lengths_works(
    device: str,
    dtype: torch.dtype,
    head_dim: int,
    capability: tuple[int, int],
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert can_varlen(torch.device(device), dtype, head_dim) is works

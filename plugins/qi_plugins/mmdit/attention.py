"""Attention over packed sequences: every sample's queries meet that sample's keys and nothing else.

A ``Plan`` says which rows belong together. It depends on lengths alone, so one serves all blocks.

Shapes: S query rows, T key rows, H heads, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import Tensor, nn

from qi_core import QiError
from qi_plugins.mmdit.again import again

Backend: TypeAlias = Literal["auto", "sdpa", "varlen"]


@frozen(kw_only=True, eq=False)
class Slots:
    """Where packed rows stand in a (samples, longest) table."""

    there: Tensor
    """Packed row for every slot of the table; empty slots point to row 0."""
    back: Tensor
    """Slot for every packed row."""
    empty: Tensor | None
    """(slots, 1) bool; None: there is none."""


@frozen(kw_only=True, eq=False)
class Plan:
    """Who meets whom."""

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    backend: Backend
    query_ends: Tensor
    """(samples + 1,) int32: where each sample's rows begin, and the end."""
    key_ends: Tensor
    queries: Slots | None = None
    """None: rows stand sample by sample. Else one padded call does it all."""
    keys: Slots | None = None
    mask: Tensor | None = field(default=None)
    """(samples, 1, 1, longest) bool: keys that are there. None: all are."""

    @property
    def in_order(self) -> bool:
        """See ``qi_core.denoiser.Packed``."""
        return self.queries is None


def plan_in_order(
    query_lengths: Sequence[int], key_lengths: Sequence[int], device: torch.device, backend: Backend = "auto"
) -> Plan:
    """For rows that stand sample by sample: no copy, one call a sample (or run of equally long samples)."""
    return Plan(
        query_lengths=tuple(query_lengths),
        key_lengths=tuple(key_lengths),
        backend=backend,
        query_ends=_ends(query_lengths, device),
        key_ends=_ends(key_lengths, device),
    )


def _ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0, dtype=torch.int32).to(device)


def can_varlen(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch's kernel for samples of different lengths works there."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def plan_table(
    queries: Sequence[Sequence[range]],
    keys: Sequence[Sequence[range]],
    device: torch.device,
    backend: Backend = "auto",
) -> Plan:
    """For many short samples: rows are moved into a table and back, and one call does them all.

    ``queries[i]`` and ``keys[i]``: the packed rows of sample i, as runs in any order. Exact: empty slots are masked.
    """
    query_lengths = tuple(sum(map(len, runs)) for runs in queries)
    key_lengths = tuple(sum(map(len, runs)) for runs in keys)
    longest = max(key_lengths)
    there = torch.arange(longest) < torch.tensor(key_lengths)[:, None]
    return Plan(
        query_lengths=query_lengths,
        key_lengths=key_lengths,
        backend=backend,
        query_ends=_ends(query_lengths, device),
        key_ends=_ends(key_lengths, device),
        queries=_slots(queries, query_lengths, device),
        keys=_slots(keys, key_lengths, device),
        mask=None if there.all() else there[:, None, None, :].to(device),
    )


def _slots(rows: Sequence[Sequence[range]], lengths: Sequence[int], device: torch.device) -> Slots:
    longest = max(lengths)
    slots = torch.cat([torch.arange(i * longest, i * longest + n) for i, n in enumerate(lengths)])
    packed = torch.tensor([row for runs in rows for run in runs for row in run])
    there = torch.zeros(len(lengths) * longest, dtype=torch.long)
    there[slots] = packed
    back = torch.empty_like(slots)
    back[packed] = slots
    empty = torch.ones(len(there), 1, dtype=torch.bool)
    empty[slots] = False
    return Slots(there=there.to(device), back=back.to(device), empty=empty.to(device) if empty.any() else None)


class _Take(torch.autograd.Function):
    """Rows by an index whose inverse is known: the backward pass is a take as well, not a scattered addition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, empty: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, empty)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, empty = ctx.saved_tensors
        grad = grads[0].index_select(0, inverse)
        return (grad if empty is None else grad.masked_fill_(empty, 0.0)), None, None, None


class Attention(nn.Module):
    """``attention`` as a module, in whose place a strategy may put another kernel: see ``Sharding.attentions``."""

    def forward(self, q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: Plan) -> Tensor:
        return attention(q_SHE, k_THE, v_THE, plan)


def attention(q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: Plan) -> Tensor:
    """softmax(q k' / sqrt(E)) v within each sample -> (S, H * E), rows in the order of ``q``.

    Raises QiError where the kernel that was asked for cannot be had.
    """
    varlen = plan.backend != "sdpa" and can_varlen(q_SHE.device, q_SHE.dtype, q_SHE.shape[-1])
    if plan.backend == "varlen" and not varlen:
        raise QiError(
            f'denoiser.attention = "varlen": not for {q_SHE.dtype} with head_dim {q_SHE.shape[-1]} on {q_SHE.device}; '
            'it wants a CUDA card of compute capability 8.0, bfloat16 and a multiple of 8; use "auto" or "sdpa"'
        )
    if plan.queries is not None and plan.keys is not None:
        return _table(q_SHE, k_THE, v_THE, plan, plan.queries, plan.keys)
    if varlen and (plan.backend == "varlen" or len(set(plan.key_lengths)) > 1):
        return _varlen(q_SHE, k_THE, v_THE, plan)
    parts: list[Tensor] = []
    start = q_start = k_start = 0
    pairs = list(zip(plan.query_lengths, plan.key_lengths, strict=True))
    while start < len(pairs):
        end = start + 1
        while end < len(pairs) and pairs[end] == pairs[start]:
            end += 1
        samples, (queries, keys) = end - start, pairs[start]
        q = q_SHE[q_start : q_start + samples * queries]
        k, v = (x[k_start : k_start + samples * keys] for x in (k_THE, v_THE))
        parts.append(_sdpa(q, k, v, samples, None))
        start, q_start, k_start = end, q_start + len(q), k_start + len(k)
    return parts[0] if len(parts) == 1 else again(_end_to_end, *parts)


def _end_to_end(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, samples: int, mask: Tensor | None) -> Tensor:
    """Equally long samples, (samples * rows, H, E) each -> (samples * rows, H * E)."""
    q, k, v = (x.view(samples, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return out.reshape(samples * out.shape[1], -1)


def _table(q: Tensor, k: Tensor, v: Tensor, plan: Plan, queries: Slots, keys: Slots) -> Tensor:
    def lay(x: Tensor, slots: Slots) -> Tensor:
        laid: Tensor = _Take.apply(x.flatten(1), slots.there, slots.back, None)  # type: ignore[no-untyped-call]
        return laid.view(-1, *x.shape[1:])

    out = _sdpa(lay(q, queries), lay(k, keys), lay(v, keys), len(plan.key_lengths), plan.mask)
    return _Take.apply(out, queries.back, queries.there, queries.empty)  # type: ignore[no-untyped-call, no-any-return]


def _varlen(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """One flash-attention call over all samples, whatever their lengths."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(q, k, v, plan.query_ends, plan.key_ends, max(plan.query_lengths), max(plan.key_lengths))
    assert isinstance(out, Tensor)
    return out.flatten(1)

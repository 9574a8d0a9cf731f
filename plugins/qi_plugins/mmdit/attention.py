"""Attention over packed sequences: every sample's queries meet that sample's keys and nothing else.

A ``Plan`` says which rows of the packed tensors belong together. It depends on lengths alone, so one serves all blocks.

Shapes: S query rows, T key rows, H heads, E channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

Backend: TypeAlias = Literal["auto", "sdpa", "varlen"]

# Up to so many keys a sample, one padded call beats one call a length on the CPU (measured: 32 samples of 20 to 60).
PAD_UP_TO = 128


@frozen(kw_only=True, eq=False)
class Rows:
    """A permutation of packed rows into groups, possibly with padding, and the way back."""

    there: Tensor
    """Row of the packed tensor for every row of the grouped one; padding points to row 0."""
    back: Tensor
    """Row of the grouped tensor for every row of the packed one."""
    padding: Tensor | None
    """(grouped rows, 1) bool: true where there is nothing."""


@frozen(kw_only=True)
class Group:
    """Samples that go through one call."""

    samples: int
    queries: int
    keys: int

    @property
    def query_rows(self) -> int:
        return self.samples * self.queries

    @property
    def key_rows(self) -> int:
        return self.samples * self.keys


@frozen(kw_only=True, eq=False)
class Plan:
    """Who meets whom."""

    queries: Rows | None
    """None: already in order."""
    keys: Rows | None
    groups: tuple[Group, ...]
    mask: Tensor | None
    """(samples, 1, 1, keys) bool, where keys are padded (one group then)."""
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]


class _Take(torch.autograd.Function):
    """Rows by an index whose inverse is known: the backward pass is a take as well, not a scattered addition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, nothing: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, nothing)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, nothing = ctx.saved_tensors
        grad = grads[0].index_select(0, inverse)
        return (grad if nothing is None else grad.masked_fill_(nothing, 0.0)), None, None, None


def _into_groups(x: Tensor, rows: Rows | None) -> Tensor:
    if rows is None:
        return x
    taken: Tensor = _Take.apply(x.flatten(1), rows.there, rows.back, None)  # type: ignore[no-untyped-call]
    return taken.view(-1, *x.shape[1:])


def _out_of_groups(x_SD: Tensor, rows: Rows | None) -> Tensor:
    if rows is None:
        return x_SD
    return _Take.apply(x_SD, rows.back, rows.there, rows.padding)  # type: ignore[no-untyped-call, no-any-return]


def make_plan(
    queries: Sequence[Sequence[range]], keys: Sequence[Sequence[range]], device: torch.device, backend: Backend
) -> Plan:
    """``queries[i]`` and ``keys[i]``: the packed rows of sample i, as runs."""
    query_lengths = tuple(sum(map(len, runs)) for runs in queries)
    key_lengths = tuple(sum(map(len, runs)) for runs in keys)
    pairs = list(zip(query_lengths, key_lengths, strict=True))
    varlen = backend == "varlen" or (backend == "auto" and device.type == "cuda")
    if len(set(pairs)) > 1 and not varlen and max(key_lengths) <= PAD_UP_TO:
        return _padded(queries, keys, query_lengths, key_lengths, device)
    # Samples of the same lengths stand together; varlen kernels don't mind the order.
    order = sorted(range(len(pairs)), key=pairs.__getitem__)
    groups: list[Group] = []
    for i in order:
        count, same = pairs[i], groups and (groups[-1].queries, groups[-1].keys) == pairs[i]
        if same:
            groups[-1] = Group(samples=groups[-1].samples + 1, queries=count[0], keys=count[1])
        else:
            groups.append(Group(samples=1, queries=count[0], keys=count[1]))
    return Plan(
        queries=_permutation([run for i in order for run in queries[i]], device),
        keys=_permutation([run for i in order for run in keys[i]], device),
        groups=tuple(groups),
        mask=None,
        query_lengths=tuple(query_lengths[i] for i in order),
        key_lengths=tuple(key_lengths[i] for i in order),
    )


def _permutation(runs: Sequence[range], device: torch.device) -> Rows | None:
    there = torch.cat([torch.arange(run.start, run.stop) for run in runs])
    straight = torch.arange(len(there))
    if torch.equal(there, straight):
        return None
    back = torch.empty_like(there)
    back[there] = straight
    return Rows(there=there.to(device), back=back.to(device), padding=None)


def _padded(
    queries: Sequence[Sequence[range]],
    keys: Sequence[Sequence[range]],
    query_lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    device: torch.device,
) -> Plan:
    samples, longest = len(queries), max(key_lengths)
    mask = torch.arange(longest) < torch.tensor(key_lengths)[:, None]
    return Plan(
        queries=_padding(queries, query_lengths, device),
        keys=_padding(keys, key_lengths, device),
        groups=(Group(samples=samples, queries=max(query_lengths), keys=longest),),
        mask=mask[:, None, None, :].to(device),
        query_lengths=query_lengths,
        key_lengths=key_lengths,
    )


def _padding(rows: Sequence[Sequence[range]], lengths: Sequence[int], device: torch.device) -> Rows:
    longest = max(lengths)
    slots = torch.cat([torch.arange(i * longest, i * longest + n) for i, n in enumerate(lengths)])
    packed = torch.cat([torch.arange(run.start, run.stop) for runs in rows for run in runs])
    there = torch.zeros(len(lengths) * longest, dtype=torch.long)
    there[slots] = packed
    back = torch.empty_like(slots)
    back[packed] = slots
    nothing = torch.ones(len(there), 1, dtype=torch.bool)
    nothing[slots] = False
    return Rows(there=there.to(device), back=back.to(device), padding=nothing.to(device))


def attention(q_SHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: Plan) -> Tensor:
    """softmax(q k' / sqrt(E)) v within each sample -> (S, H * E), rows in the order of ``q``."""
    q, k, v = _into_groups(q_SHE, plan.queries), _into_groups(k_THE, plan.keys), _into_groups(v_THE, plan.keys)
    if len(plan.groups) > 1 and q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        joined = _varlen(q, k, v, plan)
        return _out_of_groups(joined.flatten(1), plan.queries)
    parts: list[Tensor] = []
    q_start = k_start = 0
    for group in plan.groups:
        q_end, k_end = q_start + group.query_rows, k_start + group.key_rows
        out = F.scaled_dot_product_attention(
            _heads_first(q[q_start:q_end], group.samples),
            _heads_first(k[k_start:k_end], group.samples),
            _heads_first(v[k_start:k_end], group.samples),
            attn_mask=plan.mask,
        )
        parts.append(out.transpose(1, 2).reshape(group.query_rows, -1))
        q_start, k_start = q_end, k_end
    return _out_of_groups(torch.cat(parts) if len(parts) > 1 else parts[0], plan.queries)


def _heads_first(x: Tensor, samples: int) -> Tensor:
    """(samples * rows, H, E) -> (samples, H, rows, E)."""
    return x.view(samples, -1, *x.shape[1:]).transpose(1, 2)


def _varlen(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """One flash-attention call over all samples, whatever their lengths."""
    from torch.nn.attention.varlen import varlen_attn

    def ends(lengths: tuple[int, ...]) -> Tensor:
        return torch.tensor((0, *lengths), dtype=torch.int32, device=q.device).cumsum(0, dtype=torch.int32)

    out = varlen_attn(
        q, k, v, ends(plan.query_lengths), ends(plan.key_lengths), max(plan.query_lengths), max(plan.key_lengths)
    )
    assert isinstance(out, Tensor)
    return out

"""A global batch over replicas and micro-batches.

Every replica makes equally many forward and backward passes, since strategies may exchange weights in each: one that
has too few samples repeats one with a share of zero.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from qi_core.data import Batch, pieces
from qi_core.objective import Mean
from qi_core.parallel import Strategy

AnyBatch = TypeVar("AnyBatch", bound=Batch)
T = TypeVar("T")


def deal(batch: AnyBatch, replicas: int, replica: int, parts: int) -> list[tuple[AnyBatch, float]]:
    """The micro-batches of one replica, and the share of each in the mean over the global batch.

    ``parts``: at most so many micro-batches a replica; an empty batch gives none.
    """
    own = [batch.pick(each) for each in balanced(batch.costs, replicas)] if replicas > 1 else [batch]
    most = min(parts, max(len(each) for each in own))
    mine = own[replica] if len(own[replica]) or not len(batch) else batch.pick([0])
    return dealt(mine, len(batch), most, spare=not len(own[replica]))


def dealt(own: AnyBatch, total: int, passes: int, spare: bool = False) -> list[tuple[AnyBatch, float]]:
    """A replica's samples in ``passes`` micro-batches, each with its share in the mean over the ``total`` samples of
    all replicas: the shares of all add up to one, so gradients of ``share * loss`` summed over replicas are those of
    the mean. ``spare``: the samples are others', and only computed to keep them company.
    """
    if not total:
        return []
    micros = [(micro, len(micro) / total) for micro in own.split(passes)] if not spare else []
    return micros + [(own.pick([0]), 0.0)] * (passes - len(micros))


def balanced(costs: Sequence[int], replicas: int) -> list[list[int]]:
    """Which samples go to which replica: the costliest first, each to the one with the least to do (Graham 1969, at
    most a third above the best). Equally costly samples are cut into stretches. A replica keeps the batch's order."""
    if len(set(costs)) <= 1:
        return [list(range(len(costs)))[each] for each in pieces(len(costs), replicas)] + [
            [] for _ in range(replicas - len(costs))
        ]
    own = [list[int]() for _ in range(replicas)]
    loads = [(0, 0, replica) for replica in range(replicas)]  # a heap: costs and samples of each so far
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, count, least = loads[0]
        own[least].append(i)
        heapq.heapreplace(loads, (load + costs[i], count + 1, least))
    return [sorted(each) for each in own]


def of_replicas(strategy: Strategy, item: T) -> list[T]:
    """What each replica gives, in their order, to all ranks. Of the ranks of one, whose items should be the same, the
    first one's counts. For small things, or large ones one by one: every rank holds what all of them sent."""
    each = strategy.team.ranks // strategy.replicas
    return strategy.team.gather(item if is_first(strategy) else None)[::each]  # type: ignore[return-value]


def is_first(strategy: Strategy) -> bool:
    """Whether this rank is the first one of its replica."""
    return strategy.team.rank % (strategy.team.ranks // strategy.replicas) == 0


def over_replicas(strategy: Strategy, value: Tensor, parts: Mapping[str, Mean]) -> tuple[Tensor, dict[str, Mean]]:
    """Sums over replicas. Parts that some replicas lack (a reward that could be told of none of their pictures) are
    the sums of the others."""
    if strategy.team.ranks == 1:
        return value, dict(parts)
    # Names are told only when one is new: with every step, hundreds of ranks would wait long for what is the same.
    names = _names.setdefault(strategy, [])
    whole, new = _summed(strategy, value, parts, names)
    if new:
        told = [name for own in of_replicas(strategy, list(parts)) for name in own]
        names += [name for name in dict.fromkeys(told) if name not in names]
        whole, _ = _summed(strategy, value, parts, names)
    rows = whole[1:].view(-1, 3)
    means = zip(names, rows, rows[:, 2].tolist(), strict=True)
    return whole[0], {name: Mean(row[0], row[1]) for name, row, given in means if given}


_names: WeakKeyDictionary[Strategy, list[str]] = WeakKeyDictionary()
"""Those of parts that the replicas have told each other, the same on all ranks."""


def _summed(strategy: Strategy, value: Tensor, parts: Mapping[str, Mean], names: Sequence[str]) -> tuple[Tensor, bool]:
    """The value, then of each name its total, its count and whether some replica has it; and whether one has a part of
    another name."""
    nothing, given = torch.zeros(3, device=value.device), torch.ones((), device=value.device)
    rows = [torch.stack([parts[name].total, parts[name].count, given]) if name in parts else nothing for name in names]
    new = given * len(parts.keys() - set(names))
    whole = strategy.sum(torch.cat([new.reshape(1), value.reshape(1), *rows]))
    return whole[1:], bool(whole[0])

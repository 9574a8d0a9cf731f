"""A global batch over replicas and micro-batches."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from qi_core import Mean, Pairs, Rollouts, dealing
from qi_core.dealing import balanced, deal, is_first, of_replicas, over_replicas
from qi_core.testing.fakes import samples
from support.policy import drawn
from support.replicas import Replica, all_well, on_ranks
from support.ring import pairs

BATCHES = {"samples": samples(7), "pairs": Pairs(items=pairs(7)), "rollouts": drawn()}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("replicas", [1, 2, 3, 20])
def test_every_sample_is_dealt_once_in_equally_many_passes(batch: Rollouts, replicas: int, parts: int) -> None:
    dealt = [deal(batch, replicas, replica, parts) for replica in range(replicas)]
    assert {len(own) for own in dealt} == {min(parts, -(-len(batch) // replicas))}
    counted = [(slot, micro.items[i]) for own in dealt for micro, share in own if share
               for i, slot in enumerate(micro.slots)]  # fmt: skip
    assert sorted(slot for slot, _ in counted) == list(range(len(batch)))
    assert all(item is batch.items[slot] for slot, item in counted), "its slot goes with it"
    for own in dealt:
        slots = [slot for micro, share in own if share for slot in micro.slots]
        assert slots == sorted(slots), "in the batch's order"
        assert all(len(micro) > 0 for micro, _ in own), "what is computed for others' sake is a sample too"


def test_shares_are_those_of_the_mean_over_all() -> None:
    batch = drawn()
    values = torch.arange(len(batch)) ** 2.0
    for replicas in (1, 2, 5, 20):
        dealt = [one for replica in range(replicas) for one in deal(batch, replicas, replica, 3)]
        assert sum(share for _, share in dealt) == pytest.approx(1)
        means = [values[list(micro.slots)].mean() * share for micro, share in dealt]
        assert float(sum(means)) == pytest.approx(values.mean().item())


def test_an_empty_batch_is_empty_everywhere() -> None:
    """Rollouts with nothing to teach."""
    nothing = evolve(drawn(), items=(), slots=())
    assert [deal(nothing, 4, replica, 2) for replica in range(4)] == [[], [], [], []]


def test_costs_are_balanced() -> None:
    costs = [9, 1, 1, 1, 4, 4, 7, 2, 2, 5]
    own = balanced(costs, 3)
    assert sorted(i for each in own for i in each) == list(range(10))
    loads = [sum(costs[i] for i in each) for each in own]
    assert max(loads) <= 13, "36 over 3"
    assert own == balanced(costs, 3)
    assert balanced([5] * 5, 2) == [[0, 1], [2, 3, 4]], "stretches, where there is nothing to balance"
    assert balanced([5], 3) == [[0], [], []]


def test_the_first_rank_of_each_replica_speaks_for_it() -> None:
    def speaks(rank: Replica) -> tuple[list[str], bool]:
        return of_replicas(rank, f"rank {rank.team.rank}"), is_first(rank)

    found = all_well(on_ranks(4, speaks, tensor=2))
    assert [told for told, _ in found] == [["rank 0", "rank 2"]] * 4
    assert [first for _, first in found] == [True, False, True, False]


def test_sums_over_replicas_know_parts_that_one_of_them_lacks() -> None:
    """A reward that could be told of none of its pictures; or a replica that had none."""

    def sums(rank: Replica) -> tuple[float, dict[str, tuple[float, float]]]:
        parts = {"loss": Mean(torch.tensor(2.0), torch.tensor(1.0 + rank.replica))}
        if rank.replica:
            parts = {"seen": Mean(torch.tensor(6.0), torch.tensor(3.0)), **parts}
        value, found = over_replicas(rank, torch.tensor(0.5), parts)
        return float(value), {name: (float(mean.total), float(mean.count)) for name, mean in found.items()}

    whole = (1.0, {"loss": (4.0, 3.0), "seen": (6.0, 3.0)})
    assert all_well(on_ranks(2, sums)) == [whole, whole]


def test_names_of_parts_are_told_only_when_one_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with every step they would hold hundreds of ranks up."""
    told: list[int] = []

    def noted(strategy: Replica, item: list[str]) -> list[list[str]]:
        told.append(strategy.replica)
        return of_replicas(strategy, item)

    monkeypatch.setattr(dealing, "of_replicas", noted)

    def sums(rank: Replica) -> list[set[str]]:
        one, other = Mean(torch.tensor(2.0), torch.tensor(1.0)), Mean(torch.tensor(0.0), torch.tensor(0.0))
        steps = [{"a": one}, {"a": other}, {"a": one, "b": one} if rank.replica else {"a": one}, {"b": one}, {}]
        return [set(over_replicas(rank, torch.tensor(1.0), parts)[1]) for parts in steps]

    assert all_well(on_ranks(2, sums)) == [[{"a"}, {"a"}, {"a", "b"}, {"b"}, set()]] * 2
    assert sorted(told) == [0, 0, 1, 1], "at the first step, and when b comes"

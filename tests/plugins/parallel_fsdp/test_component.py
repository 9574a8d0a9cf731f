"""The strategy "fsdp" before there are several ranks: settings, which ranks belong together, what a plan is told."""

from __future__ import annotations

import pytest
import torch

from qi_core import QiError
from qi_core.parallel import Dividing
from qi_core.testing import check_component, check_parallel
from qi_plugins.parallel_fsdp import qi_parallels
from qi_plugins.parallel_fsdp.component import Fsdp
from qi_plugins.parallel_fsdp.grid import Grid


@pytest.fixture
def _four(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)


def test_the_hook_gives_it() -> None:
    assert qi_parallels() == {"fsdp": Fsdp}
    check_component(Fsdp)


def test_one_process_is_a_strategy_too() -> None:
    check_parallel(Fsdp(device="cpu"))


@pytest.mark.parametrize(
    "field", [{"precision": "fp64"}, {"shard": -1}, {"tensor": 0}, {"timeout": 0}, {"threads": -1}]
)
def test_settings_that_mean_nothing_are_refused_by_name(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Fsdp(**field)  # type: ignore[arg-type]


def test_fp16_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"NaN or black pictures; use bfloat16"):
        Fsdp(precision="fp16")


@pytest.mark.usefixtures("_four")
def test_degrees_that_do_not_fit_are_told_before_ranks_are_waited_for() -> None:
    with pytest.raises(QiError, match=r"parallel.tensor: 3 does not divide 4 ranks; set it to one of 1, 2, 4"):
        Fsdp(device="cpu", tensor=3).build()
    with pytest.raises(QiError, match=r"parallel.shard: 3 does not divide 2 replicas; set it to one of 1, 2, or 0"):
        Fsdp(device="cpu", tensor=2, shard=3).build()


def test_offload_from_the_cpu_is_told_to_be_of_no_use() -> None:
    with pytest.raises(QiError, match=r"parallel.offload: .* use offload = false"):
        Fsdp(device="cpu", offload=True).build()


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QiError, match=r"parallel.device: 'cuda' .* 0 CUDA device"):
        Fsdp(device="cuda").build()


def test_one_process_builds_its_model_where_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qi_core.devices.device", lambda *_: torch.device("meta"))
    live = Fsdp(precision="fp32").build()
    assert isinstance(live, Dividing)
    assert live.cradle == torch.device("meta")


def test_ranks_of_a_replica_are_neighbours_and_shards_lie_within_a_copy() -> None:
    grid = Grid.of(8, tensor=2, shard=2)
    assert (grid.copies, grid.shards, grid.tensor, grid.replicas) == (2, 2, 2, 4)
    assert grid.computing() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert grid.sharding() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert sorted(grid.copying()) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [grid.rank(*grid.at(rank)) for rank in range(8)] == list(range(8))


def test_a_plan_is_told_over_how_many_ranks_weights_are_divided() -> None:
    plain = Fsdp().layout(8)
    assert (plain.replicas, plain.weights_over, plain.gradients_over, plain.gathered) == (8, 8, 8, 2)
    assert [(t.kind, t.of, t.ranks, t.itemsize, t.times, t.each) for t in plain.transfers] == [
        ("all-gather", "weights", 8, 2, 2, "micro-batch"),
        ("reduce-scatter", "gradients", 8, 4, 1, "micro-batch"),
    ]
    hybrid = Fsdp(tensor=2, shard=2).layout(8)
    assert (hybrid.replicas, hybrid.tensor, hybrid.weights_over) == (4, 2, 2)
    last = hybrid.transfers[-1]
    assert (last.kind, last.ranks, last.stride, last.part) == ("all-reduce", 2, 4, 2)
    one = Fsdp().layout(1)
    assert (one.gathered, one.copied, one.transfers) == (0, True, ())
    with pytest.raises(QiError, match=r"3 does not divide 4 ranks"):
        Fsdp(tensor=3).layout(4)

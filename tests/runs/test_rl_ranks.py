"""Reinforcement learning on several ranks: rollouts, references and updates are those of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import asdict, evolve, frozen

from qi_core.reward import Weighted
from support.ranks import Case, make, together
from support.rollouts import Judge, Prompts, Ranking, Wandering

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core import Strategy
    from qi_core.run import Run

OBJECTIVES = ("grpo", "dpo", "grpo with LoRA")
MORE = (*OBJECTIVES, "nft", "awm")


@frozen
class Seen:
    """Of one objective's steps."""

    losses: list[float]
    parts: list[Mapping[str, float]]
    keys: list[list[str]]
    """What each update learned from."""
    pictures: list[Tensor]
    """Painted with the averaged weights."""


def learn(strategy: Strategy, name: str, lora: bool = False) -> Seen:
    """Four updates: two rollouts of two, the second one of each with weights that have moved."""
    from qi_core import chores, loop
    from qi_core.run import Evaluating

    run = prepared(strategy, name, lora)
    looking = Looking()
    run.evaluations = [Evaluating(every=1, evaluation=looking if run.main else None)]
    losses: list[float] = []
    parts: list[Mapping[str, float]] = []
    with loop.closing(run), loop.feeding(run) as feed:
        for _ in range(4):
            done = loop.step(run, feed)
            losses.append(done.loss)
            parts.append({name: value for name, value in done.parts.items() if "seconds" not in name})
        chores.evaluate(run, last=True)
    return Seen(losses, parts, run.source.drawn, looking.pictures)  # type: ignore[attr-defined]


def prepared(strategy: Strategy, name: str, lora: bool) -> Run:
    """A run that draws its own data."""
    from qi_core import OnPolicy, Place, Shadow, Shadowed
    from qi_core.run import EMA
    from qi_plugins.objective_dpo.dpo import Dpo
    from qi_plugins.objective_grpo.awm import Awm
    from qi_plugins.objective_grpo.grpo import Grpo
    from qi_plugins.objective_grpo.nft import Nft
    from qi_plugins.source_rollouts.component import DrawnRollouts, RankedRollouts

    run = make(strategy, Case(accumulate=2, lora=lora))
    run.objective = {
        "grpo": Grpo(clip=1.0, beta=0.5, kl="velocity"),
        "nft": Nft(old_slope=0.3, beta=0.1),
        "awm": Awm(clip=1.0, beta=0.1),
        "dpo": Dpo(beta=20.0, reference="refreshed", every=2),
    }[name]
    rules = run.objective.shadows() if isinstance(run.objective, Shadowed) else {}
    run.shadows = {EMA: run.shadows[EMA]} | {n: Shadow(run.model, rule, run.held) for n, rule in rules.items()}
    rewards = (
        Weighted(name="rank", reward=Ranking(seen=[])),
        Weighted(name="some", weight=0.0, reward=Judge(says=some)),
    )
    drawing = {"prompts": Prompts(references=True), "groups": 3, "chunk": 3, "sampler": Wandering(), "rewards": rewards}
    pairs = name == "dpo"
    settings: Any = RankedRollouts(group=3, passes=2, **drawing) if pairs else DrawnRollouts(group=4, **drawing)
    place = Place(device=strategy.device, dtype=strategy.dtype, seed=1, folder=Path("nowhere"))
    source = settings.build(place, 1)
    assert isinstance(source, OnPolicy)
    source.follow(run.models)
    run.source = Noted(source)
    run.train = evolve(run.train, batch=3 if pairs else 6)
    return run


def some(candidate: Any) -> float | None:
    """Of a few pictures alone: most micro-batches have none of them."""
    return 1.0 if candidate.key.endswith("/0") and candidate.prompt == "ab" else None


class Looking:
    """An evaluation."""

    def __init__(self) -> None:
        self.pictures: list[Any] = []

    def evaluate(self, painter: Any, step: int) -> Any:
        from qi_core import Evaluated

        self.pictures = painter.paint(["ab", "c", "def"], [(2, 4), (4, 4), (2, 2)])
        return Evaluated(step=step, name="looking")


class Noted:
    """A source that notes what was drawn."""

    def __init__(self, source: Any) -> None:
        self._source, self.drawn = source, list[list[str]]()

    def draw(self, count: int) -> Any:
        batch = self._source.draw(count)
        self.drawn.append([item.key for item in batch])
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def learns(name: str, tensor: int, objectives: Sequence[str]) -> dict[str, dict[str, Any]]:
    """On each rank. One launch for all objectives."""
    from qi_plugins.parallel_fsdp.component import Fsdp

    if name == "fsdp":
        strategy = Fsdp(device="cpu", precision="fp32", threads=1, tensor=tensor).build()
    else:
        from qi_plugins.parallel_megatron.component import Megatron

        strategy = Megatron(device="cpu", precision="fp32", threads=1, tensor=tensor, engine="torch").build()
    return {name: asdict(seen, recurse=False) for name, seen in learn_all(strategy, objectives).items()}


def learn_all(strategy: Strategy, objectives: Sequence[str]) -> dict[str, Seen]:
    return {name: learn(strategy, name.partition(" ")[0], lora="LoRA" in name) for name in objectives}


@pytest.fixture(scope="module")
def alone() -> dict[str, Seen]:
    from qi_plugins.parallel_single.component import Single

    return learn_all(Single(device="cpu", threads=1).build(), MORE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "ranks", "tensor"),
    [("fsdp", 2, 1), ("fsdp", 4, 2), ("megatron", 4, 2)],
    ids=["fsdp 2", "fsdp 2 x tensor 2", "megatron 2 x tensor 2"],
)
def test_ranks_learn_what_one_process_learns(alone: dict[str, Seen], strategy: str, ranks: int, tensor: int) -> None:
    import torch

    preload = ["qi_plugins.mmdit.component"]
    if strategy == "megatron":
        pytest.importorskip("megatron.core", reason="qi[megatron] is not installed")
        preload.append("support.megatron_cpu")
    objectives = MORE if ranks == 2 else OBJECTIVES
    every = together(ranks, learns, strategy, tensor, objectives, preload=preload)
    for name, wanted in ((name, alone[name]) for name in objectives):
        assert len({tuple(keys) for keys in wanted.keys}) == 4
        for rank, seen in enumerate(Seen(**own[name]) for own in every):
            assert seen.keys == wanted.keys, name
            assert seen.losses == pytest.approx(wanted.losses, rel=1e-5, abs=1e-6), name
            for found, told in zip(seen.parts, wanted.parts, strict=True):
                assert found.keys() == told.keys(), name
                assert found == pytest.approx(told, rel=1e-3, abs=1e-4), name
            assert len(seen.pictures) == (0 if rank else 3)
        for found, picture in zip(every[0][name]["pictures"], wanted.pictures, strict=True):
            torch.testing.assert_close(found, picture, atol=1e-4, rtol=0)

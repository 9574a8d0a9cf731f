"""Evaluations and previews of several ranks: rank 0 judges and writes, all paint and compute losses."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Dice, Evaluated, Guidance, Painter, Picture, Place, Preview, QiError, Samples, Shadow, Train, chores
from qi_core.run import EMA, Effect, Evaluating, Run
from qi_core.shadow import Average
from qi_core.testing import fakes
from qi_plugins.objective_flow.flow_matching import FlowMatching
from support.replicas import Replica, all_well, on_ranks

PROMPTS = ("ab", "c", "def")


class Looking:
    """An evaluation that paints, and keeps what it has seen."""

    def __init__(self, breaks: str = "") -> None:
        self.seen: list[list[Tensor]] = []
        self._breaks = breaks

    def evaluate(self, painter: Painter, step: int) -> Evaluated:
        self.seen.append(painter.paint(PROMPTS, [(2, 3)] * 3))
        self.seen.append(painter.paint(PROMPTS[:1], [(4, 4)]))
        if self._breaks:
            raise ValueError(self._breaks)
        return Evaluated(step=step, name="looking", scalars={"mean": float(self.seen[0][0].mean())})


class Asking:
    """An evaluation that asks the objective."""

    gives = Samples

    def __init__(self) -> None:
        self.found: list[tuple[float, dict[str, float]]] = []

    def validate(self, loss: Callable[[Any, Dice], Any], step: int) -> Evaluated:
        for count in (5, 1):
            found = loss(fakes.samples(count), Dice(1, -1))
            parts = {name: float(mean.total) for name, mean in found.parts.items() if float(mean.count)}
            self.found.append((float(found.value), parts))
        return Evaluated(step=step, name="asking", scalars={"loss": self.found[0][0]})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    network = fakes.network(Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path))
    other = deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)

    def run(strategy: Any, evaluation: Any = None, folder: Path = tmp_path) -> Run:
        model = deepcopy(network)
        nothing: Any = None
        average = Shadow(model, Average(0.9))
        average.load(other.state_dict(), 1)
        return Run(
            folder=folder,
            recipe="",
            train=Train(seed=4),
            guidance=Guidance(scale=1.0),
            preview=Preview(every=1, prompts=PROMPTS, height=2, width=3),
            encoders=fakes.encoders(),
            model=model,
            objective=FlowMatching(),
            sampler=fakes.ThreeSteps(),
            source=nothing,
            optimizer=nothing,
            strategy=strategy,
            store=nothing,
            shadows={EMA: average},
            trackers=[],
            evaluations=[Evaluating(every=1, evaluation=evaluation)],
            change=nothing,
            step=3,
        )

    return run


def on(ranks: int, make: Callable[..., Run], evaluation: Any) -> list[Any]:
    """The last results of every rank, or what it raised."""

    def work(rank: Replica) -> Any:
        run = make(rank, None if rank.team.rank else evaluation)
        before = [parameter.clone() for parameter in run.model.parameters()]
        try:
            chores.evaluate(run, last=False)
        finally:
            assert all(map(torch.equal, before, run.model.parameters())), "its own weights again, not their average"
        return run.results

    return on_ranks(ranks, work)


def test_all_paint_for_rank_0s_evaluation(make: Callable[..., Run]) -> None:
    alone, evaluation = Looking(), Looking()
    chores.evaluate(make(fakes.OneCpu(), alone), last=False)
    zero, one, two = all_well(on(3, make, evaluation))
    assert zero["looking"].step == 3
    assert one == two == {}
    for found, wanted in zip(evaluation.seen, alone.seen, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_all_compute_losses_for_rank_0s_validation(make: Callable[..., Run]) -> None:
    """Of one sample too: then some ranks only keep the others company."""
    alone, evaluation = Asking(), Asking()
    chores.evaluate(make(fakes.OneCpu(), alone), last=False)
    zero, one, two = all_well(on(3, make, evaluation))
    assert zero["asking"].scalars == {"loss": evaluation.found[0][0]}
    assert one == two == {}
    for found, wanted in zip(evaluation.found, alone.found, strict=True):
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        assert found[1] == pytest.approx(wanted[1], rel=1e-5)


def test_an_evaluation_that_fails_ends_all_ranks(make: Callable[..., Run]) -> None:
    zero, one = on(2, make, Looking(breaks="no ink"))
    assert isinstance(zero, ValueError)
    assert isinstance(one, QiError)
    assert str(one) == "rank 0: ValueError: no ink"


def test_a_rank_that_cannot_paint_ends_the_evaluation(make: Callable[..., Run]) -> None:
    def work(rank: Replica) -> None:
        run = make(rank, None if rank.team.rank else Looking())
        if rank.team.rank:
            run.encoders = evolve(run.encoders, conditioner=None)
        chores.evaluate(run, last=False)

    zero, one = on_ranks(2, work)
    assert isinstance(zero, QiError)
    assert isinstance(one, QiError)
    assert str(zero).startswith("rank 1: AttributeError: 'NoneType'")
    assert str(one) == str(zero)


def test_pictures_are_written_once(make: Callable[..., Run], tmp_path: Path) -> None:
    def work(rank: Replica) -> list[Picture]:
        folder = tmp_path / f"{rank.team.rank}"
        folder.mkdir()
        run = make(rank, folder=folder)
        chores.preview(run, last=False)
        return [picture for found in run.results.values() for picture in found.pictures]

    zero, one = all_well(on_ranks(2, work))
    assert [picture.caption for picture in zero] == list(PROMPTS)
    assert one == []
    assert (tmp_path / "0" / "pictures" / "preview-0000003.png").exists()
    assert not (tmp_path / "1" / "pictures").exists()


def test_a_change_that_cannot_be_written_down_is_made_by_no_rank(make: Callable[..., Run], tmp_path: Path) -> None:
    """Else one would go on with another learning rate than the others."""

    def work(rank: Replica) -> list[str]:
        folder, made = tmp_path / f"{rank.team.rank}", list[str]()
        run = make(rank, folder=folder)
        run.change = lambda run, setting: Effect(apply=lambda: made.append(setting))
        run.channel.folder.mkdir(parents=True)
        if rank.team.rank == 0:
            (run.channel.folder / "1.set").write_text("optimizer.lr=1")
            run.ledger.path.mkdir()
        chores.changes(run)
        return made

    assert all_well(on_ranks(2, work)) == [[], []]
    assert "cannot be written" in (tmp_path / "0" / "control" / "1.reply").read_text()


def test_a_change_that_one_rank_refuses_is_written_down_by_none(make: Callable[..., Run], tmp_path: Path) -> None:
    """Else a resume would make it, though who asked was told that it isn't."""

    def work(rank: Replica) -> list[str]:
        folder, made = tmp_path / f"{rank.team.rank}", list[str]()
        run = make(rank, folder=folder)

        def change(run: Run, setting: str) -> Effect:
            if rank.team.rank:
                raise QiError("no such folder here")
            return Effect(apply=lambda: made.append(setting))

        run.change = change
        run.channel.folder.mkdir(parents=True)
        if rank.team.rank == 0:
            (run.channel.folder / "1.set").write_text("source.path=elsewhere")
        chores.changes(run)
        return [*made, *(each.setting for each in run.ledger.read())]

    assert all_well(on_ranks(2, work)) == [[], []]
    assert "rank 1: no such folder here" in (tmp_path / "0" / "control" / "1.reply").read_text()

"""``qi plan`` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import frozen

from qi_core.planning import Layout
from qi_registry.cli import main
from qi_registry.planning.cards import find_card
from qi_registry.planning.jobs import Scene, job, sides
from qi_registry.planning.sweep import sweep
from qi_registry.reader import read
from qi_registry.recipe import Recipe
from support.planned_run import RECIPE


@frozen(kw_only=True)
class Whole:
    """A strategy that holds all of the model on every rank."""

    tensor: int = 1

    def layout(self, ranks: int) -> Layout:
        return Layout(replicas=ranks // self.tensor, tensor=self.tensor)


@frozen(kw_only=True)
class Shards:
    """One that divides it."""

    def layout(self, ranks: int) -> Layout:
        return Layout(
            replicas=ranks, weights_over=ranks, gradients_over=ranks, optimizer_over=ranks, shadows_over=ranks
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    where = tmp_path / "mine.toml"
    where.write_text(RECIPE)
    return where


@pytest.fixture
def recipe(path: Path) -> Recipe:
    return read(path)


def test_it_tells_memory_time_and_what_was_taken_for_granted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--gpu", "h200", "--pixels", "256,512", "--set", "train.accumulate=8"]) == 0
    said = capsys.readouterr().out
    for line in (
        "on 1 H200: 1 replica; 64 samples",
        "trained weights",
        "ema",
        "frozen encoders",
        "256 px",
        "MFU",
        "1000 steps",
    ):
        assert line in said
    assert "autoencoder: nothing in nowhere; taken as released" in said
    assert "captions of 128 tokens" in said


def test_what_does_not_fit_is_told_with_what_would(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--gpu", "rtx4090", "--gpus", "1"]) == 1
    said = capsys.readouterr().out
    assert "too much" in said
    assert "It does not fit. What fits: " in said
    change = said.partition("What fits: ")[2].partition(" (")[0].split()
    gpus = change[change.index("--gpus") : change.index("--gpus") + 2] if "--gpus" in change else []
    sets = [word for word in change if word not in gpus]
    assert main(["plan", str(path), "--gpu", "rtx4090", *(gpus or ["--gpus", "1"]), *sets]) == 0  # and it is true


def test_a_sweep_tells_the_best_first_and_what_does_not_fit_as_such(recipe: Recipe) -> None:
    scene, card = Scene(side=512, text=128, references=0), find_card("RTX 6000 Ada")
    found = sweep(recipe, scene, 8, card, 8, {"whole": Whole, "shards": Shards})
    fits = [choice.found.fits for choice in found]
    assert fits == sorted(fits, reverse=True)
    assert True in fits
    assert False in fits
    fitting = [choice.found.seconds for choice in found if choice.found.fits]
    assert fitting == sorted(fitting)
    lacking = [choice.found.peak for choice in found if not choice.found.fits]
    assert lacking == sorted(lacking)
    assert {choice.strategy for choice in found} == {"whole", "shards"}
    assert {choice.checkpointing for choice in found} == {"none", "selective", "all"}
    assert {choice.found.layout.tensor for choice in found if choice.strategy == "whole"} == {1, 2, 4, 8}


def test_micro_batches_are_as_few_as_fit(recipe: Recipe) -> None:
    scene, card = Scene(side=1024, text=128, references=0), find_card("h100")
    choices = [c for c in sweep(recipe, scene, 8, card, 8, {"shards": Shards}) if c.checkpointing == "none"]
    assert len(choices) == 1
    best = choices[0].found
    assert best.fits
    assert 1 < best.accumulate < 8
    assert best.micro * best.accumulate >= 64 // 8


def test_several_machines_make_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--gpus", "8,16", "--gpu", "h100,h200", "--set", "denoiser.size=small"]) == 0
    said = capsys.readouterr().out
    for cell in ("8 H100", "16 H100", "8 H200", "16 H200", "512 px"):
        assert cell in said


def test_an_adapter_trains_little_on_a_frozen_model(path: Path) -> None:
    plain, _ = job(read(path), Scene(side=512, text=128, references=0))
    lora, _ = job(read(path, ['adapter = { name = "lora", rank = 16 }']), Scene(side=512, text=128, references=0))
    trained = [sum(p.numel() for p in each.network.parameters() if p.requires_grad) for each in (plain, lora)]
    assert trained[1] < trained[0] / 50
    assert lora.adapted


def test_pairs_are_two_pictures_and_a_reference(path: Path) -> None:
    sets = ['source = { name = "pairs", path = "votes.jsonl", side = 512 }', 'objective = { name = "dpo" }']
    found, notes = job(read(path, sets), Scene(side=512, text=128, references=0))
    assert len(found.sample) == 2
    assert found.asked == 1
    assert "reference" in found.shadows
    assert any("without gradients" in note for note in notes)


def test_sizes_come_from_sources_within_sources(path: Path) -> None:
    one, two = (f'source = {{ name = "images", path = "x", side = {side} }}' for side in (640, 256))
    stages = f'source = {{ name = "mixture", parts = [{{ weight = 1.0, {one} }}, {{ weight = 1.0, {two} }}] }}'
    assert sides(read(path, [stages])) == ((256, 640), "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpu", "h10"], "no card called 'h10' is known; did you mean 'H100'"),
        (["--gpus", "8"], '"single" is one process, but 8 ranks were asked for'),
        (["--gpus", "8", "--set", "parallel.name=fsdp", "--set", "parallel.tensor=3"], "3"),
        (["--gpus", "5", "--set", "parallel.name=megatron", "--set", "parallel.tensor=5"], "does not divide"),
        (["--gpus", "8", "--nodes", "1"], "leave one out"),
        (["--mfu", "40"], "--mfu: 40 is more than the peak"),
        (["--pixels", "4"], "--pixels: 4 is less than one token"),
    ],
)
def test_bad_input_is_told_in_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["plan", str(path), *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def test_a_denoiser_that_cannot_plan_is_named(recipe: Recipe) -> None:
    @frozen(kw_only=True)
    class Unknown:
        def build(self) -> None: ...

    from attrs import evolve

    from qi_core import QiError

    with pytest.raises(QiError, match="denoiser: Unknown does not say what it costs"):
        job(evolve(recipe, denoiser=Unknown()), Scene(side=512, text=128, references=0))


def test_a_run_is_planned_as_its_recipe_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert main(["plan", str(tmp_path), "--set", "train.batch=8", "--gpu", "b200"]) == 0
    assert f"{tmp_path} on 1 B200" in " ".join(capsys.readouterr().out.split())


def test_where_producers_encode_a_trainer_holds_the_autoencoder_alone(path: Path) -> None:
    scene = Scene(side=512, text=128, references=0)
    qwen = 'conditioner={name="qwen2.5-vl", path="nowhere"}'
    own, told = job(read(path, sets=[qwen]), scene)
    assert own.encoders > 7e9
    assert not any("producers encode" in each for each in told)
    other, told = job(read(path, sets=[qwen, 'data.engine="local"']), scene)
    assert other.encoders < 1e9
    assert any("producers encode: the trainer loads the conditioner (7.07 billion weights)" in each for each in told)

"""Flow matching: the loss is eq. 2, its draws are fresh, and captions are dropped per sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from qi_core import (
    Condition,
    DenoiserModule,
    Dice,
    Encoders,
    Examples,
    Latents,
    Models,
    Sample,
    Samples,
    Sharding,
    flow,
)
from qi_core.testing.fakes import OneCpu
from qi_plugins.objective_flow.flow_matching import FlowMatching


class Pixels:
    """One token a pixel."""

    width, scale = 3, 1

    def encode(self, images: Sequence[Tensor]) -> Latents:
        tokens = torch.cat([image.float().flatten(1).T / 127.5 - 1 for image in images])
        return Latents(tokens=tokens, grids=tuple((1, *image.shape[1:]) for image in images))  # type: ignore[misc]

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        raise NotImplementedError


class Letters:
    """A token a letter; the empty prompt has one of its own."""

    width = 1

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        tokens = [torch.tensor([[float(ord(c))] for c in prompt or "\0"]) for prompt in prompts]
        return Condition(text=torch.cat(tokens), lengths=tuple(len(t) for t in tokens))


class Remembering(DenoiserModule):
    """Gives zero; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))
        self.asked: list[tuple[Latents, Tensor, Condition]] = []

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        self.asked.append((latents, t, condition))
        return latents.with_tokens(latents.tokens * self.zero)

    def sharding(self) -> Sharding:
        return Sharding(weights={}, heads=1, blocks="")


ENCODERS = Encoders(autoencoder=Pixels(), conditioner=Letters())
MODELS = Models(encoders=ENCODERS, denoiser=Remembering(), strategy=OneCpu())


def samples(count: int, prompt: str = "abc") -> Samples:
    sizes = [(2 + i % 2, 3) for i in range(count)]
    return Samples(
        items=tuple(
            Sample(key=str(i), prompt=prompt, image=torch.full((3, *size), i % 256, dtype=torch.uint8))
            for i, size in enumerate(sizes)
        )
    )


def test_the_loss_is_equation_2_the_mean_over_each_sample() -> None:
    objective, model, dice = FlowMatching(caption_dropout=0), Remembering(), Dice(0, 0)
    examples = objective.prepare(samples(3), MODELS, dice)
    loss = objective.loss(model, examples, dice)
    x_t, t, _ = model.asked[0]
    errors = []
    for x, data, time in zip(x_t.split(), examples.latents.split(), t, strict=True):
        noise = (x.tokens - time * data.tokens) / (1 - time)  # eq. 1 solved for x_1
        errors.append((data.tokens - noise).square().mean())
    assert loss.value.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


def test_noise_and_time_are_fresh_at_every_visit_and_the_same_on_replay() -> None:
    """Regression: noise and timestep cached with the sample train at one timestep for ever (LoongForge)."""
    objective, model = FlowMatching(), Remembering()
    for step in (0, 1, 0):
        objective.loss(model, objective.prepare(samples(2), MODELS, Dice(0, step)), Dice(0, step))
    (first, t_first, _), (second, t_second, _), (again, t_again, _) = model.asked
    assert not torch.equal(t_first, t_second)
    assert not torch.equal(first.tokens, second.tokens)
    assert torch.equal(t_first, t_again)
    assert torch.equal(first.tokens, again.tokens)


def test_how_a_batch_is_cut_changes_no_draw() -> None:
    """Not in the last bit either, though vector and scalar forms of a function round differently."""
    objective, model, dice = FlowMatching(), Remembering(), Dice(7, 0)
    objective.loss(model, objective.prepare(samples(70), MODELS, dice), dice)
    for micro in samples(70).split(35):
        objective.loss(model, objective.prepare(micro, MODELS, dice), dice)
    (whole, t_whole, _), *parts = model.asked
    assert torch.equal(whole.tokens, torch.cat([part.tokens for part, _, _ in parts]))
    assert torch.equal(t_whole, torch.cat([t for _, t, _ in parts]))


def test_captions_are_dropped_per_sample_for_the_real_empty_prompt() -> None:
    """Regression: dropout drawn once a batch, with zeros for the empty prompt (NeMo Automodel)."""
    examples = FlowMatching(caption_dropout=0.5).prepare(samples(200), MODELS, Dice(0, 0))
    dropped = [length == 1 for length in examples.condition.lengths]
    assert 70 < sum(dropped) < 130
    empty = Letters().encode([""]).text
    singles = examples.condition.split()
    assert all(torch.equal(single.text, empty) for single, gone in zip(singles, dropped, strict=True) if gone)


def test_what_stands_for_a_dropped_caption_can_be_chosen() -> None:
    examples = FlowMatching(caption_dropout=1.0, dropped=" ").prepare(samples(2), MODELS, Dice(0, 0))
    assert torch.equal(examples.condition.text, ENCODERS.condition([" ", " "]).text)


def draws(objective: FlowMatching, count: int = 2000) -> Tensor:
    model, dice = Remembering(), Dice(0, 0)
    data = Latents(tokens=torch.zeros(count, 1), grids=((1, 1, 1),) * count)
    text = Condition(text=torch.zeros(count, 1), lengths=(1,) * count)
    examples = Examples(latents=data, condition=text, slots=tuple(range(count)), keys=("",) * count)
    objective.loss(model, examples, dice)
    return model.asked[0][1]


def test_times_are_logit_normal_or_uniform_and_can_be_shifted_toward_noise() -> None:
    logits = torch.logit(draws(FlowMatching(mean=0.5, std=0.8)))
    assert logits.mean().item() == pytest.approx(0.5, abs=0.08)
    assert logits.std().item() == pytest.approx(0.8, abs=0.06)
    uniform = draws(FlowMatching(times="uniform"))
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.03)
    assert uniform.var().item() == pytest.approx(1 / 12, abs=0.01)
    shifted = torch.logit(draws(FlowMatching(shift=3.0)))
    assert shifted.mean().item() == pytest.approx(-math.log(3.0), abs=0.1)
    released = torch.logit(draws(FlowMatching(shift="qwen-image")))
    assert released.mean().item() == pytest.approx(-flow.released_mu(1), abs=0.1)


def test_the_loss_is_told_by_bins_of_time() -> None:
    objective, model, dice = FlowMatching(), Remembering(), Dice(0, 0)
    loss = objective.loss(model, objective.prepare(samples(50), MODELS, dice), dice)
    assert sum(mean.count.item() for mean in loss.parts.values()) == 50
    total = sum(mean.total.item() for mean in loss.parts.values())
    assert total / 50 == pytest.approx(loss.value.item(), rel=1e-4)


@pytest.mark.parametrize("factor", [0.0, -3.0])
def test_a_shift_by_a_factor_that_moves_time_nowhere_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="'shift' must be > 0"):
        FlowMatching(shift=factor)

"""What a card does in reinforcement learning: a rollout and an update of GRPO, each with its MFU. Part of gpu.py.

A rollout: exact-sde, 10 steps, guided (both branches in one packed batch), states of two noisy steps kept on the CPU as
the source ``rollouts`` keeps them. Decoding and rewards are not in it. An update: the objective ``grpo`` on those two
steps of each picture with the exact KL to the first weights, not guided: a forward pass of the reference, forward,
backward, clip, AdamW. All weights are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from card import CAPTIONS, CHANNELS, SCALE, TEXT_WIDTH, fresh_memory, most_memory, seconds

from qi_core import (
    Condition,
    DenoiserModule,
    Dice,
    Guidance,
    Latents,
    Models,
    Place,
    Rollout,
    Rollouts,
    Shadow,
    Strategy,
    Window,
)
from qi_core.flow import Guided
from qi_core.planning import Tokens
from qi_plugins.mmdit.architecture import Architecture
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.mmdit.cost import forward_flops, training_flops
from qi_plugins.objective_grpo.grpo import Grpo
from qi_plugins.objective_grpo.names import REFERENCE
from qi_plugins.optimizer_adamw.component import AdamW
from qi_plugins.sampler_sde.samplers import ExactSde
from qi_plugins.source_rollouts.recorder import Recorder

SAMPLER = ExactSde(steps=10, window=Window(length=2, first=1))
GUIDANCE = Guidance(scale=4.0)
NEGATIVE = 6
"""Tokens of the negative caption."""


@frozen(kw_only=True)
class Work:
    """One workload."""

    part: str
    """"rollout" or "update"."""
    pixels: int
    pictures: int
    passes: int
    """Forward passes of single pictures; a backward pass counts as two."""
    seconds: float | None
    """Median; None: the card has too little memory."""
    images_per_second: float | None
    teraflops: float | None
    mfu: float | None
    memory: float | None
    """Most that was ever held, GiB."""


@frozen(kw_only=True, eq=False)
class Prompts:
    """What is drawn, for so many pictures."""

    noise: Latents
    conditions: list[Condition]
    negatives: list[Condition]

    @staticmethod
    def of(pixels: int, pictures: int, device: torch.device) -> Prompts:
        side = pixels // SCALE
        tokens = torch.randn(pictures * side * side, CHANNELS, device=device)
        lengths = [CAPTIONS[i % len(CAPTIONS)] for i in range(pictures)]
        return Prompts(
            noise=Latents(tokens=tokens, grids=((1, side, side),) * pictures),
            conditions=[Condition(text=torch.randn(n, TEXT_WIDTH), lengths=(n,)) for n in lengths],
            negatives=[Condition(text=torch.randn(NEGATIVE, TEXT_WIDTH), lengths=(NEGATIVE,)) for _ in lengths],
        )

    def sizes(self, guided: bool) -> list[Tokens]:
        """Of one forward pass."""
        asked = [*self.conditions, *self.negatives] if guided else self.conditions
        targets = self.noise.lengths * (2 if guided else 1)
        return [Tokens(text=len(c.text), target=n) for c, n in zip(asked, targets, strict=True)]


def reinforce(
    settings: MMDiT, strategy: Strategy, place: Place, pixels: Sequence[int], tokens: int, rounds: int, peak: float
) -> list[Work]:
    """Every size on one model. As many pictures as make ``tokens`` image tokens with both branches of guidance."""
    model = strategy.place(settings.build(place, CHANNELS, TEXT_WIDTH))
    arch = settings.architecture(CHANNELS, TEXT_WIDTH)
    learner = Learner(model, strategy)
    rows: list[Work] = []
    for size in pixels:
        prompts = Prompts.of(size, max(1, tokens // (2 * (size // SCALE) ** 2)), place.device)
        batch: list[Rollouts] = []

        def rollout(prompts: Prompts = prompts, batch: list[Rollouts] = batch) -> None:
            batch[:] = [draw(model, strategy, prompts)]

        def update(batch: list[Rollouts] = batch) -> None:
            learner.update(batch[0])

        pictures = len(prompts.conditions)
        for part, work, flop, passes in (
            ("rollout", rollout, drawing_flops(arch, prompts), 2 * SAMPLER.steps * pictures),
            ("update", update, learning_flops(arch, prompts), 4 * SAMPLER.window.length * pictures),
        ):
            fresh_memory(place.device)
            took = seconds(work, place.device, rounds) if part == "rollout" or batch else None
            model.zero_grad(set_to_none=True)
            speed = flop / took / 1e12 if took else None
            rows.append(
                Work(
                    part=part,
                    pixels=size,
                    pictures=pictures,
                    passes=passes,
                    seconds=took,
                    images_per_second=pictures / took if took else None,
                    teraflops=speed,
                    mfu=speed / peak if speed and peak else None,
                    memory=most_memory(place.device),
                )
            )
    return rows


def drawing_flops(arch: Architecture, prompts: Prompts) -> int:
    """Both branches at each step."""
    return SAMPLER.steps * forward_flops(arch, prompts.sizes(guided=True))


def learning_flops(arch: Architecture, prompts: Prompts) -> int:
    """For each pair of a picture and a noisy step, a pass of the reference and a training step."""
    sizes = prompts.sizes(guided=False)
    return SAMPLER.window.length * (forward_flops(arch, sizes) + training_flops(arch, sizes))


def draw(model: DenoiserModule, strategy: Strategy, prompts: Prompts) -> Rollouts:
    """A rollout without its pictures: the steps that an update learns from, and made-up advantages."""
    device, count = prompts.noise.tokens.device, len(prompts.conditions)
    recorder, dice = Recorder(count), Dice(0, 0)
    with torch.no_grad(), strategy.autocast():
        negative = Condition.cat(prompts.negatives).to(device)
        latents = SAMPLER.sample(
            Guided(model, negative, GUIDANCE),
            prompts.noise,
            Condition.cat(prompts.conditions).to(device),
            generators=[dice.roll(i, "sampler") for i in range(count)],
            record=recorder,
        )
    each = zip(prompts.conditions, prompts.negatives, latents.to(torch.device("cpu")).split(), strict=True)
    items = tuple(
        Rollout(
            key=str(i),
            group="",
            prompt="",
            condition=condition,
            negative=negative,
            latents=one,
            steps=tuple(recorder.steps[i]),
            reward=0.0,
            rewards={},
            advantage=(-1.0) ** i,
        )
        for i, (condition, negative, one) in enumerate(each)
    )
    return Rollouts(items=items, sampler=SAMPLER, guidance=GUIDANCE, fresh=True)


class Learner:
    """Updates of one model."""

    def __init__(self, model: DenoiserModule, strategy: Strategy) -> None:
        self.model, self.strategy = model, strategy
        self.objective = Grpo()
        self.optimizer = AdamW(lr=1e-6).build(model, 1 << 20)
        shadows = {name: Shadow(model, rule) for name, rule in self.objective.shadows().items()}
        assert list(shadows) == [REFERENCE]
        # Nothing is encoded in an update: the conditions come with the rollouts.
        self.models = Models(encoders=None, denoiser=model, strategy=strategy, shadows=shadows)  # type: ignore[arg-type]
        self.done = 0

    def update(self, batch: Rollouts) -> None:
        """As ``qi_core.loop.step``, in one micro-batch."""
        dice = Dice(0, self.done)
        with self.strategy.autocast():
            with torch.no_grad():
                prepared = self.objective.prepare(batch, self.models, dice)
            loss = self.objective.loss(self.model, prepared, dice)
        self.strategy.backward(loss.value)
        self.strategy.clip(self.model.parameters(), 1.0)
        self.optimizer.step(self.done)
        self.done += 1

"""Pictures from a model: prompt -> condition -> noise -> sampler -> pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from attrs import frozen
from torch import Tensor

from qi_core.asking import together
from qi_core.data import Latents
from qi_core.dealing import balanced, of_replicas
from qi_core.denoiser import Called, Denoiser, DenoiserModule
from qi_core.dice import Dice
from qi_core.encoder import Encoders
from qi_core.flow import Guided
from qi_core.parallel import Strategy
from qi_core.sampler import Sampler
from qi_core.settings import Guidance

TOKENS = 16384
"""Of pictures and references that are drawn at once: four of 1024x1024, whose tokens are of 16x16 pixels."""


def eight_bits(image: Tensor) -> Tensor | None:
    """(3, H, W) in [-1, 1] -> uint8 on the CPU, as rewards judge it; None if a value is no number."""
    values = image.float().cpu()
    if not bool(torch.isfinite(values).all()):
        return None
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@frozen(kw_only=True, eq=False)
class Painter:
    """Draws pictures. Picture i of a call depends on the seed and i alone, not on what is drawn beside it, nor by which
    rank."""

    model: DenoiserModule
    encoders: Encoders
    sampler: Sampler
    guidance: Guidance
    strategy: Strategy
    seed: int
    asks: Callable[..., list[Tensor]] | None = None
    """For an evaluation, which runs on rank 0 alone: has all ranks paint (see ``qi_core.asking.led``)."""

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        references: Sequence[Sequence[Tensor]] = (),
        *,
        batch: int = 64,
        whole: bool = False,
    ) -> list[Tensor]:
        """One picture a prompt, (3, H, W) float32 in [-1, 1] on the CPU. On several ranks: called by every one with
        the same arguments, each replica draws its part, and all get all.

        ``sizes``: (height, width) in pixels, one a prompt. ``references``: empty, or pictures to edit, (3, H, W)
        uint8, for each prompt. ``batch``: at most so many at once, fewer where they are large. ``whole``: see
        ``Autoencoder.decode``; evaluations score nothing else.
        """
        if self.asks is not None:
            return self.asks(prompts, sizes, references, batch=batch, whole=whole)
        tokens = self._tokens(sizes, references)
        dealt = [list(_batches(own, tokens, batch)) for own in balanced(tokens, self.strategy.replicas)]
        calls = max(map(len, dealt))
        mine = dealt[self.strategy.replica]

        def draw() -> list[Tensor]:
            own: list[Tensor] = []
            for which in mine:
                own += self._paint(which, prompts, sizes, references, whole)
            for _ in range(calls - len(mine)):  # others may need this rank's part of the weights: never seen
                self._paint([0], prompts, sizes, references, whole)
            return own

        training = self.model.training
        self.model.eval()
        try:
            drawn = together(self.strategy.team, draw)
        finally:
            self.model.train(training)
        return self._gathered(drawn, [[i for which in own for i in which] for own in dealt])

    def _tokens(self, sizes: Sequence[tuple[int, int]], references: Sequence[Sequence[Tensor]]) -> list[int]:
        """Of each picture and its references."""
        shown = [[(image.shape[1], image.shape[2]) for image in own] for own in references] or [[]] * len(sizes)
        return [
            sum(prod(self.encoders.grid(*each)) for each in (size, *own))
            for size, own in zip(sizes, shown, strict=True)
        ]

    def _gathered(self, drawn: Sequence[Tensor], which: Sequence[Sequence[int]]) -> list[Tensor]:
        """All pictures in order, on all ranks. ``which``: those of each replica."""
        found: dict[int, Tensor] = {}
        for turn in range(max(map(len, which))):  # one a replica at a time, for what is on its way is in memory too
            own = drawn[turn] if turn < len(drawn) else None
            for numbers, image in zip(which, of_replicas(self.strategy, own), strict=True):
                if image is not None:
                    found[numbers[turn]] = image
        return [found[i] for i in range(len(found))]

    def _paint(
        self,
        which: Sequence[int],
        prompts: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        references: Sequence[Sequence[Tensor]],
        whole: bool,
    ) -> list[Tensor]:
        device = self.strategy.device
        asked = [prompts[i] for i in which]
        shown = [references[i] for i in which] if references else ()
        grids = tuple(self.encoders.grid(*sizes[i]) for i in which)
        dice = Dice(self.seed, 0)
        width = self.encoders.autoencoder.width
        noise = torch.cat(
            [
                torch.randn(frames * rows * columns, width, generator=dice.roll(i, "paint"))
                for i, (frames, rows, columns) in zip(which, grids, strict=True)
            ]
        )
        denoiser: Denoiser = Called(self.model)
        with self.strategy.autocast():
            condition = self.encoders.condition(asked, shown).to(device)
            if self.guidance.scale != 1.0:
                negative = self.encoders.condition([self.guidance.negative] * len(asked), shown).to(device)
                denoiser = Guided(denoiser, negative, self.guidance)
            latents = self.sampler.sample(
                denoiser,
                Latents(tokens=noise.to(device), grids=grids),
                condition,
                generators=[dice.roll(i, "sampler") for i in which],
            )
        return [image.float().cpu() for image in self.encoders.autoencoder.decode(latents, whole=whole)]


def _batches(numbers: Sequence[int], tokens: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Which of these pictures are drawn at once: at most so many, and of TOKENS tokens unless a single one has more."""
    start = held = 0
    for i, number in enumerate(numbers):
        if i > start and (i - start == most or held + tokens[number] > TOKENS):
            yield numbers[start:i]
            start, held = i, 0
        held += tokens[number]
    if numbers:
        yield numbers[start:]

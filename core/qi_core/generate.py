"""Pictures from a model: prompt -> condition -> noise -> sampler -> pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from attrs import frozen
from torch import Tensor

from qi_core.data import Latents
from qi_core.denoiser import DenoiserModule
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
    """Draws pictures. Picture i of a call depends on the seed and i alone, not on what is drawn beside it."""

    model: DenoiserModule
    encoders: Encoders
    sampler: Sampler
    guidance: Guidance
    strategy: Strategy
    seed: int

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
        """One picture a prompt, (3, H, W) float32 in [-1, 1] on the CPU.

        ``sizes``: (height, width) in pixels, one a prompt. ``references``: empty, or pictures to edit, (3, H, W)
        uint8, for each prompt. ``batch``: at most so many at once, fewer where they are large. ``whole``: see
        ``Autoencoder.decode``; evaluations score nothing else.
        """
        pictures: list[Tensor] = []
        training = self.model.training
        self.model.eval()
        try:
            for which in self._batches(sizes, references, batch):
                pictures += self._paint(which, prompts, sizes, references, whole)
        finally:
            self.model.train(training)
        return pictures

    def _batches(
        self, sizes: Sequence[tuple[int, int]], references: Sequence[Sequence[Tensor]], most: int
    ) -> Iterator[range]:
        """Which pictures are drawn at once: at most so many, and of TOKENS tokens unless a single one has more."""
        start = tokens = 0
        for i, size in enumerate(sizes):
            shown = [(image.shape[1], image.shape[2]) for image in references[i]] if references else []
            own = sum(prod(self.encoders.grid(*each)) for each in (size, *shown))
            if i > start and (i - start == most or tokens + own > TOKENS):
                yield range(start, i)
                start, tokens = i, 0
            tokens += own
        if sizes:
            yield range(start, len(sizes))

    def _paint(
        self,
        which: range,
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
        denoiser = self.model
        with self.strategy.autocast():
            condition = self.encoders.condition(asked, shown).to(device)
            if self.guidance.scale != 1.0:
                negative = self.encoders.condition([self.guidance.negative] * len(asked), shown).to(device)
                denoiser = Guided(self.model, negative, self.guidance)  # type: ignore[assignment]
            latents = self.sampler.sample(
                denoiser,
                Latents(tokens=noise.to(device), grids=grids),
                condition,
                generators=[dice.roll(i, "sampler") for i in which],
            )
        return [image.float().cpu() for image in self.encoders.autoencoder.decode(latents, whole=whole)]

"""Pictures from a model: prompt -> condition -> noise -> sampler -> pixels."""

from __future__ import annotations

from collections.abc import Sequence

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
        uint8, for each prompt. ``batch``: at most so many at once. ``whole``: see
        ``Autoencoder.decode``; evaluations score nothing else.
        """
        pictures: list[Tensor] = []
        training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(prompts), batch):
                stop = min(start + batch, len(prompts))
                pictures += self._paint(range(start, stop), prompts, sizes, references, whole)
        finally:
            self.model.train(training)
        return pictures

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
                generator=dice.roll(which.start, "sampler"),
            )
        return [image.float().cpu() for image in self.encoders.autoencoder.decode(latents, whole=whole)]

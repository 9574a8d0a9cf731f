"""Samplers: from noise to latents along the velocity field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from qi_core.data import Condition, Latents
    from qi_core.denoiser import Denoiser


class Sampler(Protocol):
    """Integrates dx = v dt from t = 0 (noise) to t = 1 (data).

    A sampler holds settings only and takes the denoiser as an argument: that is what makes swapping one while a run
    goes on free. Guidance is not its affair: it is handed a denoiser that already guides (``qi_core.flow.Guided``).
    """

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """``noise``: x at t = 0, packed (N, D) float32 ~ N(0, 1). Returns x at t = 1, same shape.

        ``generator`` (CPU) feeds samplers that add noise on the way; deterministic ones ignore it.
        """
        ...

"""The models of a run, as objectives and sources that act with them get them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import field, frozen

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core.adapter import Adapter
    from qi_core.denoiser import DenoiserModule
    from qi_core.encoder import Encoders
    from qi_core.parallel import Strategy
    from qi_core.shadow import Shadow

BASE = "base"
"""Names the denoiser without its adapter."""


@frozen(kw_only=True, eq=False)
class Models:
    """Encoders and denoiser, and the denoiser as it is with other weights."""

    encoders: Encoders
    denoiser: DenoiserModule
    """With the weights that are being trained."""
    strategy: Strategy
    shadows: Mapping[str, Shadow] = field(factory=dict)
    adapter: Adapter | None = None

    @contextmanager
    def as_of(self, name: str) -> Generator[DenoiserModule]:
        """The denoiser with the weights of a shadow, or ("base") without its adapter; its own again afterwards.

        Nothing is recorded for gradients inside: a backward pass would meet other weights than its forward pass. So not
        between the two of another computation either. Raises QiError if there is none of that name.
        """
        import torch

        if name == BASE and self.adapter is not None:
            with torch.no_grad(), self.adapter.off():
                yield self.denoiser
            return
        if name not in self.shadows:
            known = ", ".join([*self.shadows, *([BASE] if self.adapter else [])]) or "none"
            raise QiError(f"no weights called {name!r} are kept beside the model (there are: {known})")
        with torch.no_grad(), self.shadows[name].applied():
            yield self.denoiser

"""Samplers: from noise to latents along the velocity field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core.data import Condition, Latents
    from qi_core.denoiser import Denoiser


@frozen(kw_only=True, eq=False)
class Step:
    """One step of a trajectory: everything that a policy gradient needs of it. All float32, whatever the denoiser's
    dtype: states in bfloat16 put the ratio of a policy with itself off by up to 1.3e-3."""

    index: int
    t: Tensor
    """(B,) before the step."""
    t_next: Tensor
    """(B,) after it."""
    x: Latents
    """The state before it, (N, D)."""
    mean: Tensor
    """(N, D) of the next state."""
    std: Tensor
    """(B,) of each value of the next state; 0 for a sample to which this step adds no noise."""
    x_next: Latents
    """The state after it, (N, D)."""
    log_prob: Tensor
    """(B,) of ``x_next``, the mean over a sample's values (``flow.log_prob``); 0 where ``std`` is."""


Record: TypeAlias = "Callable[[Step], None]"
"""Whoever wants to keep a trajectory; called once a step, in order."""


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
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """``noise``: x at t = 0, packed (N, D) float32 ~ N(0, 1). Returns x at t = 1, same shape.

        ``generators`` (CPU), one a sample, feed samplers that add noise on the way, so that what is drawn for a sample
        does not depend on its neighbours; deterministic ones ignore them. ``record`` is told every step.
        """
        ...


@frozen(kw_only=True, eq=False)
class Transition:
    """The law of one step: each value of the next state is Gaussian and by itself."""

    mean: Tensor
    """(N, D) float32."""
    std: Tensor
    """(B,) float32, one a sample."""


@runtime_checkable
class StochasticSampler(Protocol):
    """A sampler whose steps are Gaussian given the state and the velocity: what a policy gradient can train.

    Its ``sample`` is ``qi_core.stochastic.integrate(self, ...)``, so that rollouts and their replay share one code.
    """

    def times(self, lengths: Sequence[int]) -> Tensor:
        """(S + 1, B) float32 from 0 to 1, a column a sample of so many tokens."""
        ...

    def transition(self, x: Latents, velocity: Tensor, t: Tensor, t_next: Tensor) -> Transition:
        """The law of the state at ``t_next``, given the one at ``t`` and (N, D) the velocity there.

        Differentiable in ``velocity``. ``t``, ``t_next``: (B,), 0 <= t < t_next <= 1; both ends must be finite.
        """
        ...

    def noisy(self, steps: int, groups: Sequence[int], phase: int) -> Tensor:
        """(S, B) bool: to which steps of which samples noise is added; elsewhere they follow the ordinary equation.

        ``groups``: a number a sample, the same for samples that are compared with each other: they share their window,
        always (windows of their own collapse training within 30 steps). ``phase``: rollouts made so far, for windows
        that move as training goes on.
        """
        ...

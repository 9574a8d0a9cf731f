"""Settings of the optimizer "adamw"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import nn

    from qi_core import Held, Optimizer


def _betas(instance: object, attribute: Attribute[tuple[float, float]], value: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in value):
        raise ValueError(f"'{attribute.name}' must be two numbers in [0, 1), not {value}")


def _decay(instance: AdamW, _: Attribute[int], value: int) -> None:
    if value and instance.schedule != "constant":
        raise ValueError(f"'decay' ends a constant schedule; with schedule = {instance.schedule!r} leave it out")


def _final(instance: AdamW, _: Attribute[float], value: float) -> None:
    if value and instance.schedule == "constant" and not instance.decay:
        raise ValueError("'final' is where cosine or decay end; set one of them, or leave it out")


@frozen(kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""

    lr: float = field(default=1e-4, validator=validators.gt(0))
    """Peak learning rate; can be changed while the run goes on."""
    betas: tuple[float, float] = field(default=(0.9, 0.95), validator=_betas)
    """Decay of the averages of the gradient and of its square."""
    eps: float = field(default=1e-8, validator=validators.gt(0))
    """Added to the root of the mean square. Gradients of reinforcement learning can be as small as 5e-9: use 1e-15."""
    weight_decay: float = field(default=0.0, validator=validators.ge(0))
    """Pull toward zero, times the learning rate, on matrices and kernels only: parameters with fewer than two
    dimensions (biases, norms, gains) are never decayed."""
    warmup: int = field(default=0, validator=validators.ge(0))
    """Steps over which the rate rises in a line from lr / warmup to lr."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: stay at lr, or fall along half a cosine until the run ends."""
    decay: int = field(default=0, validator=[validators.ge(0), _decay])
    """Constant schedule: the last so many steps fall linearly instead (warm-up, stable, decay)."""
    final: float = field(default=0.0, validator=[validators.ge(0), validators.le(1), _final])
    """Where cosine or decay end, as a part of lr."""

    def build(self, model: nn.Module, steps: int, held: Held | None = None) -> Optimizer:
        """The optimizer of a model's trained parameters, for so many steps. Raises QiError if they are too few."""
        from qi_core import QiError, Whole
        from qi_plugins.optimizer_adamw.optimizer import LiveAdamW

        if self.decay and self.warmup + self.decay > steps:
            raise QiError(
                f"optimizer: warmup = {self.warmup} and decay = {self.decay} do not fit into {steps} steps; "
                "train for longer (train.steps), or shorten them"
            )
        return LiveAdamW(self, model, steps, held or Whole(model))

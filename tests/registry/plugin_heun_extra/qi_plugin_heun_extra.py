"""Samplers and a verb of a third party's."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from qi_core import hookimpl

if TYPE_CHECKING:
    import torch

    from qi_core import Command, Condition, Denoiser, Latents, Record, Sampler


@frozen(kw_only=True)
class Midpoint:
    """The explicit midpoint rule: two velocities a step, the first only to look ahead."""

    steps: int = field(default=14, validator=validators.gt(0))
    """Calls of the denoiser, divided by two."""

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """Uniform times."""
        import torch

        from qi_core.stochastic import sure_step

        latents, step = noise, 1 / self.steps
        for index in range(self.steps):
            t = torch.full((len(latents),), index * step)
            middle = latents.tokens + denoiser.velocity(latents, t, condition).tokens * (step / 2)
            velocity = denoiser.velocity(latents.with_tokens(middle), t + step / 2, condition)
            after = latents.with_tokens(latents.tokens + velocity.tokens * step)
            if record is not None:
                record(sure_step(index, t, t + step, latents, after))
            latents = after
        return latents


@frozen(kw_only=True)
class Heun:
    """Takes a name that qi has."""

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """Does nothing."""
        return noise


class Greet:
    """Greet whoever is named."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("who")

    def run(self, args: Namespace) -> int:
        print(f"hello {args.who}")
        return 0


@hookimpl
def qi_samplers() -> dict[str, type[Sampler]]:
    return {"midpoint": Midpoint, "heun": Heun}


@hookimpl
def qi_commands() -> dict[str, type[Command]]:
    return {"greet": Greet}

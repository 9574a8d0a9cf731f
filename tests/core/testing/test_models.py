"""Wrong samplers and denoisers are told what they break."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from qi_core import Condition, DenoiserModule, Latents, Place, Sharding
from qi_core.testing import check_denoiser, check_sampler
from qi_core.testing.fakes import Tiny, TinyNetwork


@frozen(kw_only=True)
class Steps:
    """Euler's rule, right; what follows breaks it in one place each."""

    steps: int = 40

    def sample(self, denoiser: Any, noise: Latents, condition: Condition, *, generator: Any = None) -> Latents:
        x = self.start(noise)
        for i in range(self.steps):
            t = torch.full((len(x),), i / self.steps)
            x = self.move(x, t, denoiser.velocity(x, t, condition).tokens / self.steps, generator)
        return x

    def start(self, noise: Latents) -> Latents:
        return noise

    def move(self, x: Latents, t: Tensor, change: Tensor, generator: Any) -> Latents:
        return x.with_tokens(x.tokens + change)


class Backward(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generator: Any) -> Latents:
        return x.with_tokens(x.tokens - change)


class Half(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generator: Any) -> Latents:
        return x.with_tokens((x.tokens + change).to(change.dtype))


class Crowd(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generator: Any) -> Latents:
        return x.with_tokens(x.tokens + change + 0.001 * x.tokens.mean())


class InPlace(Steps):
    def move(self, x: Latents, t: Tensor, change: Tensor, generator: Any) -> Latents:
        x.tokens.add_(change)
        return x


class Global(Steps):
    def start(self, noise: Latents) -> Latents:
        return noise.with_tokens(noise.tokens + 1e-9 * torch.randn(noise.tokens.shape))


class Sized(Steps):
    """Takes the first sample's size for all."""

    def start(self, noise: Latents) -> Latents:
        return evolve(noise, grids=noise.grids[:1] * len(noise))


@frozen(kw_only=True)
class Remembers(Steps):
    memory: list[float] = field(factory=list)

    def start(self, noise: Latents) -> Latents:
        self.memory.append(0.001)
        return noise.with_tokens(noise.tokens + sum(self.memory))


class Exact(Steps):
    """Adds noise on the way and keeps the marginals: the exact step with rho = 0 (x' = t' x0_hat + (1 - t') eps)."""

    louder = 1.0

    def move(self, x: Latents, t: Tensor, change: Tensor, generator: Any) -> Latents:
        now, then = x.per_token(t), x.per_token(t) + 1 / self.steps
        data = x.tokens + (1 - now) * change * self.steps
        random = torch.randn(x.tokens.shape, generator=generator)
        kept = 0.98  # of the noise that is in x
        noise = kept * (x.tokens - now * change * self.steps) + (1 - kept**2) ** 0.5 * random
        return x.with_tokens(then * data + self.louder * (1 - then) * noise)


class TooLoud(Exact):
    louder = 1.2


@pytest.mark.parametrize("sampler", [Steps(), Exact(steps=60)])
def test_a_right_sampler_deterministic_or_not_passes(sampler: Any) -> None:
    check_sampler(sampler)


@pytest.mark.parametrize(
    ("sampler", "broken"),
    [
        (Backward(), "away from the exact flow map"),
        (Steps(steps=2), "away from the exact flow map"),
        (Half(), "not float32 all the way"),
        (Crowd(), "beside another neighbour"),
        (InPlace(), "changed the noise"),
        (Global(), "global generator of torch"),
        (Sized(), "grids"),
        (Remembers(), "two calls with the same arguments"),
        (TooLoud(steps=60), "deviation 0.5 came out with"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_sampler_is_told(sampler: Any, broken: str) -> None:
    with pytest.raises(AssertionError, match=rf"{type(sampler).__name__} breaks .*Sampler\.sample: .*{broken}"):
        check_sampler(sampler)


class Leaks(TinyNetwork):
    """Attends to the padding of others, in effect."""

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        found = super().velocity(latents, t, condition)
        return found.with_tokens(found.tokens + 0.01 * condition.text.mean())


class Unused(TinyNetwork):
    def __init__(self, *widths: int) -> None:
        super().__init__(*widths)
        self.spare = nn.Linear(2, 2)


class Detached(TinyNetwork):
    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        told = torch.stack([self.told(time, one) for time, one in zip(t, condition.split(), strict=True)]).detach()
        hidden = self.inward(latents.tokens) + told.repeat_interleave(torch.tensor(latents.lengths), dim=0)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return latents.with_tokens(self.outward(hidden))


class Ignores(TinyNetwork):
    def told(self, t: Tensor, condition: Condition) -> Tensor:
        return super().told(t, evolve(condition, references=None, reference_counts=()))


class Timeless(TinyNetwork):
    def told(self, t: Tensor, condition: Condition) -> Tensor:
        return super().told(torch.ones_like(t), condition)


class Misnamed(TinyNetwork):
    def sharding(self) -> Sharding:
        return evolve(super().sharding(), weights={"blocks.*.to_q.weight": "heads"})


class Uneven(TinyNetwork):
    def sharding(self) -> Sharding:
        return evolve(super().sharding(), heads=3)


class Blockless(TinyNetwork):
    def sharding(self) -> Sharding:
        return evolve(super().sharding(), blocks="layers")


class Dropping(TinyNetwork):
    def told(self, t: Tensor, condition: Condition) -> Tensor:
        return nn.functional.dropout(super().told(t, condition), 0.1)


class Cropping(TinyNetwork):
    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        return super().velocity(latents, t, condition).split()[0]


@pytest.mark.parametrize(
    ("network", "broken"),
    [
        (Leaks, "another velocity than alone"),
        (Unused, "2 of .* trained tensors get no gradient .spare.weight, spare.bias"),
        (Detached, "trained tensors get no gradient .time.weight"),
        (Ignores, "does not depend on the reference pictures"),
        (Timeless, "does not depend on the time"),
        (Misnamed, r"'blocks.*.to_q.weight' names no parameter"),
        (Uneven, "cannot be divided by columns over 3 ranks"),
        (Blockless, "'layers', which names no nn.ModuleList"),
        (Dropping, "global generator of torch"),
        (Cropping, "not those of x_t"),
    ],
)
def test_a_wrong_denoiser_is_told(network: type[TinyNetwork], broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_denoiser(Tiny(network=network))


class Unseeded(Tiny):
    def build(self, place: Place, latent_width: int, text_width: int) -> DenoiserModule:
        return TinyNetwork(latent_width, text_width)


class SameForAll(Tiny):
    def build(self, place: Place, latent_width: int, text_width: int) -> DenoiserModule:
        return super().build(evolve(place, seed=0), latent_width, text_width)


class Bfloat(Tiny):
    def build(self, place: Place, latent_width: int, text_width: int) -> DenoiserModule:
        return super().build(place, latent_width, text_width).to(torch.bfloat16)


@pytest.mark.parametrize(
    ("component", "broken"),
    [
        (Unseeded(), "global generator of torch"),
        (SameForAll(), "different seeds gave the same weights"),
        (Bfloat(), "weights are built in float32"),
    ],
)
def test_a_denoiser_built_wrongly_is_told(component: Tiny, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_denoiser(component)


def test_a_denoiser_without_references_must_refuse_them() -> None:
    check_denoiser(Tiny())
    check_denoiser(SameForAll(), seeded=False)
    with pytest.raises(AssertionError, match="a reference picture was taken; QiError is promised"):
        check_denoiser(Tiny(network=Ignores), references=False)

"""Wrong denoisers are told what they break."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from qi_core import Condition, DenoiserModule, Latents, Place, Sharding
from qi_core.testing import check_denoiser
from qi_core.testing.fakes import Tiny, TinyNetwork


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

"""Wrong autoencoders and conditioners are told what they break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor

from qi_core import Condition, Latents
from qi_core.testing import check_autoencoder, check_conditioner
from qi_core.testing.fakes import Letters, PicturedLetters, Pixels


class Transposed(Pixels):
    def encode(self, images: Sequence[Tensor]) -> Latents:
        return super().encode([image.transpose(1, 2) for image in images])


class Sampled(Pixels):
    def encode(self, images: Sequence[Tensor]) -> Latents:
        found = super().encode(images)
        return found.with_tokens(found.tokens + 0.1 * torch.randn(found.tokens.shape))


class OneScale(Pixels):
    """Takes floats for bytes."""

    def encode(self, images: Sequence[Tensor]) -> Latents:
        return super().encode([image / 127.5 - 1 for image in images])


class Crops(Pixels):
    """What is no multiple is cut off without a word."""

    def encode(self, images: Sequence[Tensor]) -> Latents:
        return super().encode([image[:, :: self.scale, :: self.scale] for image in images])

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        images = super().decode(latents)
        return [image.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2) for image in images]


class Unbounded(Pixels):
    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        return [image * 3 for image in super().decode(latents)]


class OneSided(Pixels):
    """Takes the mean off and does not put it back."""

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        return [(image * 0.9 + 0.05) for image in super().decode(latents)]


@pytest.mark.parametrize(
    ("live", "broken"),
    [
        (Transposed(), r"rows x columns\) have grids"),
        (Sampled(), "global generator of torch"),
        (OneScale(), "as uint8 than as float"),
        (Crops(scale=4), "a height of 5 pixels at scale 4 was taken; QiError"),
        (Unbounded(), r"leaves \[-1, 1\]"),
        (OneSided(), "encoded and decoded a picture is off"),
    ],
)
def test_a_wrong_autoencoder_is_told(live: Any, broken: str) -> None:
    check_autoencoder(Pixels(), round_trip=1e-6)
    with pytest.raises(AssertionError, match=broken):
        check_autoencoder(live, round_trip=1e-6)


class Padding(Letters):
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        longest = max(map(len, prompts))
        return super().encode([prompt.ljust(longest) for prompt in prompts], references)


class Wordless(Letters):
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        found = super().encode(prompts, references)
        text = [one.text[1:] for one in found.split()]
        return Condition(text=torch.cat(text), lengths=tuple(map(len, text)))


class Deaf(Letters):
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        return super().encode(["" for _ in prompts], references)


class Blind(Letters):
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        return super().encode(prompts)


class Trained(Letters):
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        found = super().encode(prompts, references)
        return evolve(found, text=found.text * torch.ones((), requires_grad=True))


@pytest.mark.parametrize(
    ("live", "references", "broken"),
    [
        (Padding(), False, "other tokens in a batch than alone"),
        (Wordless(), False, "the empty prompt is a prompt"),
        (Deaf(), False, "has the tokens of the empty prompt"),
        (Blind(), False, "a reference picture was taken; QiError"),
        (Blind(), True, "do not depend on the reference picture"),
        (Trained(), False, "hang on a graph"),
    ],
)
def test_a_wrong_conditioner_is_told(live: Any, references: bool, broken: str) -> None:
    check_conditioner(Letters())
    check_conditioner(PicturedLetters(), references=True)
    with pytest.raises(AssertionError, match=broken):
        check_conditioner(live, references=references)

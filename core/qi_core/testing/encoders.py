"""The contracts of autoencoders and conditioners, as they are when built."""

from __future__ import annotations

import torch

from qi_core.data import Condition, Latents
from qi_core.encoder import Autoencoder, Conditioner
from qi_core.testing.contract import Contract, contract
from qi_core.testing.fakes import picture

PROMPTS = ("", "a", 'the word "HELLO" in red on white', "红底白字“你好”")
NEAR = 1e-4
"""Sums of float32 in another order."""


def check_autoencoder(live: Autoencoder, *, round_trip: float | None = None) -> None:
    """``qi_core.encoder.Autoencoder``: deterministic, each picture by itself and of its own size.

    ``round_trip``: if given, decoding what was encoded must give each picture back with at most this mean difference
    (pixels in [-1, 1]).
    """
    told = contract(live, "qi_core.encoder.Autoencoder.encode")
    scale = live.scale
    told.holds(scale > 0 and live.width > 0, f"width is {live.width} and scale is {scale}; both are wanted above 0")
    images = [picture(2 * scale, 3 * scale, seed=1), picture(4 * scale, scale, seed=2)]
    before = [image.clone() for image in images]
    with told.leaves_random_numbers_alone("encode"):
        latents = live.encode(images)
    _latents(told, live, latents)
    told.holds(all(map(torch.equal, images, before)), "it changed the pictures that it was given")
    told.holds(torch.equal(live.encode(images).tokens, latents.tokens), "encoding twice gave different latents")
    for image, together in zip(images, latents.split(), strict=True):
        alone = live.encode([image])
        told.near(together.tokens, alone.tokens, NEAR, "a picture has other latents in a batch than alone")
        floats = live.encode([image.float() / 127.5 - 1])
        told.near(floats.tokens, alone.tokens, NEAR, "a picture has other latents as uint8 than as float in [-1, 1]")
    if scale > 1:
        told.refuses(
            f"a height of {scale + 1} pixels at scale {scale}", lambda: live.encode([picture(scale + 1, scale, seed=3)])
        )
    _decoded(contract(live, "qi_core.encoder.Autoencoder.decode"), live, latents, round_trip)


def check_conditioner(live: Conditioner, *, references: bool = False) -> None:
    """``qi_core.encoder.Conditioner``: exact lengths, each prompt by itself, the empty one too.

    ``references``: whether it reads pictures. One that doesn't must refuse them: nothing is ignored in silence.
    """
    told = contract(live, "qi_core.encoder.Conditioner.encode")
    told.holds(live.width > 0, f"width is {live.width}; above 0 is wanted")
    with told.leaves_random_numbers_alone("encode"):
        condition = live.encode(PROMPTS)
    _condition(told, live, condition, len(PROMPTS))
    told.holds(torch.equal(live.encode(PROMPTS).text, condition.text), "encoding twice gave different tokens")
    singles = condition.split()
    for prompt, together in zip(PROMPTS, singles, strict=True):
        told.near(live.encode([prompt]).text, together.text, NEAR, f"{prompt!r} has other tokens in a batch than alone")
    for prompt, single in zip(PROMPTS[1:], singles[1:], strict=True):
        told.holds(
            single.text.shape != singles[0].text.shape or not torch.equal(single.text, singles[0].text),
            f"{prompt!r} has the tokens of the empty prompt",
        )
    image = picture(64, 96, seed=4)
    if not references:
        told.refuses("a reference picture", lambda: live.encode(["make it red"], [[image]]))
        return
    prompts, shown = ["make it red", "a"], [[image], []]
    both = live.encode(prompts, shown)
    _condition(told, live, both, len(prompts))
    plain = live.encode(prompts[:1]).text
    pictured = both.split()
    told.holds(
        pictured[0].text.shape != plain.shape or not torch.equal(pictured[0].text, plain),
        "the tokens do not depend on the reference picture",
    )
    for i, together in enumerate(pictured):
        alone = live.encode([prompts[i]], [shown[i]])
        told.near(together.text, alone.text, NEAR, "beside a prompt with pictures a prompt has other tokens than alone")


def _latents(told: Contract, live: Autoencoder, latents: Latents) -> None:
    wanted = ((1, 2, 3), (1, 4, 1))
    told.holds(
        latents.grids == wanted,
        f"pictures of 2x3 and 4x1 tokens (rows x columns) have grids {latents.grids}; wanted {wanted}",
    )
    told.holds(
        latents.tokens.shape == (10, live.width) and latents.tokens.dtype == torch.float32,
        f"the latents are {tuple(latents.tokens.shape)}, {latents.tokens.dtype}; wanted (10, {live.width}), float32",
    )
    told.holds(bool(latents.tokens.isfinite().all()), "the latents are not finite")
    told.holds(not latents.tokens.requires_grad, "the latents hang on a graph; encoders are frozen")


def _decoded(told: Contract, live: Autoencoder, latents: Latents, round_trip: float | None) -> None:
    images = live.decode(latents)
    pieces = live.decode(latents, whole=True)
    scale = live.scale
    wanted = [(3, 2 * scale, 3 * scale), (3, 4 * scale, scale)]
    told.holds(
        [tuple(image.shape) for image in images] == wanted,
        f"the pictures are {[tuple(image.shape) for image in images]}; wanted {wanted} (channels, height, width)",
    )
    told.holds(
        [image.shape for image in pieces] == [image.shape for image in images],
        f"with whole=True the pictures are {[tuple(image.shape) for image in pieces]}; wanted {wanted}",
    )
    for number, (image, single) in enumerate(zip(images, latents.split(), strict=True), start=1):
        told.holds(image.dtype == torch.float32, f"a picture is {image.dtype}; wanted float32")
        told.holds(float(image.abs().max()) <= 1, "a picture leaves [-1, 1]")
        told.near(image, live.decode(single)[0], NEAR, "a picture is decoded differently in a batch than alone")
        if round_trip is not None:
            original = picture(image.shape[1], image.shape[2], seed=number).float() / 127.5 - 1
            lost = float((image.cpu() - original).abs().mean())
            told.holds(lost <= round_trip, f"encoded and decoded a picture is off by {lost:.2g} on average")


def _condition(told: Contract, live: Conditioner, condition: Condition, count: int) -> None:
    told.holds(len(condition.lengths) == count, f"{count} prompts gave {len(condition.lengths)} lengths")
    told.holds(
        condition.text.shape == (sum(condition.lengths), live.width),
        f"the tokens are {tuple(condition.text.shape)}; wanted ({sum(condition.lengths)}, {live.width}): the lengths "
        "end to end, no padding",
    )
    told.holds(min(condition.lengths) > 0, "a prompt has no token; the empty prompt is a prompt")
    told.holds(condition.text.is_floating_point(), f"the tokens are {condition.text.dtype}; wanted floating point")
    told.holds(bool(condition.text.isfinite().all()), "the tokens are not finite")
    told.holds(not condition.text.requires_grad, "the tokens hang on a graph; encoders are frozen")
    told.holds(condition.references is None, "it sets Condition.references, which is the autoencoder's part")

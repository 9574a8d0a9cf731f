"""Small exact parts that components are checked against. Whatever looks random follows from a seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from qi_core.data import Condition, Grid, Latents, Sample, Samples
from qi_core.denoiser import Denoiser, DenoiserModule, Sharding
from qi_core.encoder import Encoders
from qi_core.errors import QiError
from qi_core.generate import Painter
from qi_core.models import Models
from qi_core.place import Place
from qi_core.sampler import Record
from qi_core.settings import Guidance
from qi_core.shards import Held, Whole
from qi_core.stochastic import sure_step
from qi_core.team import Alone

MEAN, STD = 1.5, 0.5
"""Of the data of ``GaussianField``. Unlike the noise's, so that a wrong sign shows."""


def normal(*shape: int, seed: int) -> Tensor:
    """N(0, 1), float32, the same ones every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@define(eq=False)
class GaussianField:
    """The exact velocity E[x_0 - x_1 | x_t] for data ~ N(1.5, 0.5^2); remembers what it was asked.

    Its flow map takes noise n to 1.5 + 0.5 n.
    """

    dtype: torch.dtype = torch.float32
    """Of the answer; a denoiser under autocast may answer in bfloat16."""
    states: list[Latents] = field(factory=list)

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """See ``Denoiser.velocity``."""
        self.states.append(latents.with_tokens(latents.tokens.clone()))
        time = latents.per_token(t)
        variance = time**2 * STD**2 + (1 - time) ** 2
        slope = (time * STD**2 - (1 - time)) / variance
        return latents.with_tokens((MEAN + slope * (latents.tokens - time * MEAN)).to(self.dtype))


class TinyNetwork(DenoiserModule):
    """Tokens in, tokens out; of text and references it sees each sample's means."""

    def __init__(self, latent_width: int, text_width: int, width: int = 8) -> None:
        super().__init__()
        self.inward = nn.Linear(latent_width, width)
        self.time = nn.Linear(2, width)
        self.text = nn.Linear(text_width, width)
        self.reference = nn.Linear(latent_width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(2)
        )
        self.outward = nn.Linear(width, latent_width)

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        """See ``Denoiser.velocity``."""
        told = torch.stack([self.told(time, one) for time, one in zip(t, condition.split(), strict=True)])
        hidden = self.inward(latents.tokens) + told.repeat_interleave(torch.tensor(latents.lengths), dim=0)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return latents.with_tokens(self.outward(hidden))

    def told(self, t: Tensor, condition: Condition) -> Tensor:
        """What one sample's tokens are told."""
        told: Tensor = self.time(torch.stack([t, 1 - t])) + self.text(condition.text).mean(dim=0)
        if condition.references is not None:
            told = told + self.reference(condition.references.tokens).mean(dim=0)
        return told

    def sharding(self) -> Sharding:
        """Up, then down: columns, then rows."""
        weights = {"blocks.*.0.weight": "columns", "blocks.*.0.bias": "columns", "blocks.*.2.weight": "rows"}
        return Sharding(weights=weights, heads=2, blocks="blocks")  # type: ignore[arg-type]


@frozen(kw_only=True)
class Tiny:
    """A denoiser that keeps its contract."""

    network: type[TinyNetwork] = TinyNetwork

    def build(self, place: Place, latent_width: int, text_width: int) -> DenoiserModule:
        """See ``DenoiserComponent.build``."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(place.seed)
            return self.network(latent_width, text_width).to(place.device)


@frozen(kw_only=True)
class Pixels:
    """An autoencoder: one token a pixel."""

    scale: int = 1
    width: int = 3

    def encode(self, images: Sequence[Tensor]) -> Latents:
        """See ``Autoencoder.encode``."""
        grids: list[Grid] = [(1, image.shape[1], image.shape[2]) for image in images]
        values = [image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image for image in images]
        return Latents(tokens=torch.cat([value.flatten(1).T for value in values]), grids=tuple(grids))

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        """See ``Autoencoder.decode``."""
        return [one.tokens.T.reshape(3, *one.grids[0][1:]).float().clamp(-1, 1) for one in latents.split()]


@frozen(kw_only=True)
class Letters:
    """A conditioner: one token a letter, and one before them all."""

    width: int = 4

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """See ``Conditioner.encode``."""
        if any(len(own) for own in references):
            raise QiError("letters: got reference pictures; text alone is understood; leave them out")
        codes = [[0, *map(ord, prompt)] for prompt in prompts]
        powers = torch.arange(1, self.width + 1)
        text = torch.cat([torch.sin(torch.tensor(own)[:, None] * powers) for own in codes])
        return Condition(text=text, lengths=tuple(map(len, codes)))


@frozen(kw_only=True)
class PicturedLetters(Letters):
    """The same, and a token for each reference picture: its mean colour."""

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """See ``Conditioner.encode``."""
        singles: list[Condition] = []
        for i, prompt in enumerate(prompts):
            one = super().encode([prompt])
            seen = [image.float().mean().expand(1, self.width) / 255 for image in (references[i] if references else ())]
            text = torch.cat([*seen, one.text])
            singles.append(Condition(text=text, lengths=(len(text),)))
        return Condition.cat(singles)


@frozen(kw_only=True)
class ThreeSteps:
    """A sampler: Euler's rule."""

    def sample(
        self,
        denoiser: Denoiser,
        noise: Latents,
        condition: Condition,
        *,
        generators: Sequence[torch.Generator] = (),
        record: Record | None = None,
    ) -> Latents:
        """See ``Sampler.sample``."""
        x = noise
        for i in range(3):
            t = torch.full((len(x),), i / 3)
            x_next = x.with_tokens(x.tokens + denoiser.velocity(x, t, condition).tokens / 3)
            if record is not None:
                record(sure_step(i, t, torch.full((len(x),), (i + 1) / 3), x, x_next))
            x = x_next
        return x


class OneCpu:
    """A strategy: this process's CPU in float32."""

    device, dtype, team = torch.device("cpu"), torch.float32, Alone()
    replica, replicas = 0, 1
    timeout = 0.0

    def place(self, model: DenoiserModule, sharding: Sharding | None = None) -> DenoiserModule:
        """See ``Strategy.place``."""
        return model

    def held(self, model: DenoiserModule) -> Held:
        """See ``Strategy.held``."""
        return Whole(model)

    def autocast(self) -> AbstractContextManager[None]:
        """See ``Strategy.autocast``."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """See ``Strategy.backward``."""
        torch.autograd.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """See ``Strategy.clip``."""
        norm = nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
        return float(norm)

    def sum(self, values: Tensor) -> Tensor:
        """See ``Strategy.sum``."""
        return values


def models(denoiser: DenoiserModule) -> Models:
    """What an objective is given, around a denoiser for ``encoders()``."""
    return Models(encoders=encoders(), denoiser=denoiser, strategy=OneCpu())


def encoders() -> Encoders:
    """Pixels, and letters that take pictures too."""
    return Encoders(autoencoder=Pixels(), conditioner=PicturedLetters())


def network(place: Place) -> DenoiserModule:
    """A tiny denoiser for ``encoders()``."""
    return Tiny().build(place, Pixels().width, Letters().width)


def painter(place: Place) -> Painter:
    """Paints with a tiny untrained denoiser: noise, but quick, and of any size."""
    return Painter(
        model=network(place),
        encoders=encoders(),
        sampler=ThreeSteps(),
        guidance=Guidance(scale=1.0),
        strategy=OneCpu(),
        seed=place.seed,
    )


def picture(height: int, width: int, seed: int) -> Tensor:
    """(3, H, W) uint8: a slope of colours with grain, so that no two pixels and no two sides are alike."""
    rows = torch.linspace(0, 120, height)[:, None]
    columns = torch.linspace(0, 80, width)[None, :]
    grain = torch.randint(0, 40, (3, height, width), generator=torch.Generator().manual_seed(seed))
    return (rows + columns + grain).to(torch.uint8)


def samples(count: int) -> Samples:
    """Pictures of different sizes; every third has a reference."""
    return Samples(
        items=tuple(
            Sample(
                key=f"sample-{i}",
                prompt="abcdef"[: i % 6],
                image=picture(2 + i % 2, 3 + i % 3, seed=i),
                references=(picture(3, 2, seed=100 + i),) if i % 3 == 2 else (),
            )
            for i in range(count)
        )
    )

"""The toy of post-training: points of the plane instead of pictures, in milliseconds, with everything else real.

Data are eight narrow clusters on a ring. A prompt asks for a direction ("90") or for none ("any"), and the base model
draws all eight whatever is asked, so that its reward, the agreement of direction, is about 0. What post-training makes
of it is told by two numbers: the reward, and the share of points that are still on the data. The reward does not care
how far out a point is; so who chases it alone leaves the data, and that shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import frozen
from torch import Tensor, nn

from qi_core import (
    Candidate,
    Condition,
    DenoiserModule,
    Encoders,
    Guidance,
    Latents,
    Objective,
    OnPolicy,
    Pair,
    Pairs,
    Place,
    Preview,
    Rollouts,
    Sample,
    Sampler,
    Samples,
    Scores,
    Shadow,
    Shadowed,
    Sharding,
    Source,
    Strategy,
    Train,
    flow,
    loop,
)
from qi_core.reward import Weighted
from qi_core.run import Run
from qi_plugins.optimizer_adamw.component import AdamW
from qi_plugins.parallel_single.component import Single
from qi_plugins.sampler_flow.samplers import Euler
from qi_plugins.source_rollouts.component import DrawnRollouts

MODES, RADIUS, STD = 8, 2.0, 0.15
ANGLES = torch.arange(MODES) * (2 * math.pi / MODES)
CENTRES = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
"""(8, 2)."""
DIRECTIONS = tuple(f"{45 * i}" for i in range(MODES))
"""Prompts: degrees, those of the clusters."""
EXTENT = 4.0
"""A picture shows the plane from -4 to 4."""


# The world: what is data, what is asked, what it is worth.


def exact_velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x_0 - x_1 | x_t]. x (B, 2), t (B,)."""
    t = t[:, None]
    variance = (t * STD) ** 2 + (1 - t) ** 2
    apart = x[:, None] - t[:, :, None] * CENTRES
    weights = torch.softmax(-apart.square().sum(-1) / (2 * variance), dim=1)[..., None]
    each = CENTRES + (t * STD**2 - (1 - t))[:, None] / variance[:, None] * apart
    return (weights * each).sum(1)


def on_data(points: Tensor) -> Tensor:
    """(B,) bool: at most three deviations from a centre. 0.989 of real data are."""
    return torch.cdist(points, CENTRES).min(dim=1).values <= 3 * STD


def agreement(points: Tensor, prompts: Sequence[str]) -> Tensor:
    """(B,) cosine of the angle between point and direction asked; a point that was asked for none agrees fully."""
    wanted = Compass().encode(prompts).text
    cosine = torch.cosine_similarity(points, wanted, dim=1)
    return torch.where(wanted.any(dim=1), cosine, torch.ones(()))


# The parts of a run.


@frozen(kw_only=True)
class Compass:
    """A conditioner: degrees -> one token (cos, sin); "any", and every other word, -> (0, 0)."""

    width: int = 2

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        angles = [math.radians(float(prompt)) if prompt.isdecimal() else None for prompt in prompts]
        tokens = [(0.0, 0.0) if angle is None else (math.cos(angle), math.sin(angle)) for angle in angles]
        return Condition(text=torch.tensor(tokens), lengths=(1,) * len(tokens))


@frozen(kw_only=True)
class Plane:
    """An autoencoder: a point <-> a picture of one pixel, whose red and green are its coordinates."""

    width: int = 2
    scale: int = 1

    def encode(self, images: Sequence[Tensor]) -> Latents:
        pixels = torch.stack([image.flatten() for image in images])
        values = pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels
        return Latents(tokens=values[:, :2] * EXTENT, grids=((1, 1, 1),) * len(images))

    def decode(self, latents: Latents, *, whole: bool = False) -> list[Tensor]:
        values = (latents.tokens / EXTENT).clamp(-1, 1)
        return list(torch.cat([values, torch.zeros(len(values), 1)], dim=1)[:, :, None, None])


class Network(DenoiserModule):
    """A perceptron. It starts by ignoring what is asked."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.inward = nn.Linear(2 + 6 + 2, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.outward = nn.Linear(width, 2)

    def velocity(self, latents: Latents, t: Tensor, condition: Condition) -> Latents:
        waves = t[:, None] * math.pi * torch.tensor([0.5, 1.0, 2.0])
        hidden = self.inward(torch.cat([latents.tokens, waves.sin(), waves.cos(), condition.text], dim=1))
        for block in self.blocks:
            hidden = block(nn.functional.silu(hidden))
        return latents.with_tokens(self.outward(nn.functional.silu(hidden)))

    def sharding(self) -> Sharding:
        return Sharding(weights={}, heads=1, blocks="blocks")


@frozen(kw_only=True)
class Asked:
    """A source of prompts, every direction in turn."""

    gives: ClassVar[type] = Samples
    prompts: tuple[str, ...] = DIRECTIONS

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        return _Asked(self.prompts)


class _Asked:
    def __init__(self, prompts: tuple[str, ...]) -> None:
        self._prompts, self._n = prompts, 0

    def draw(self, count: int) -> Samples:
        own = [self._prompts[n % len(self._prompts)] for n in range(self._n, self._n + count)]
        self._n += count
        image = torch.zeros(3, 1, 1, dtype=torch.uint8)
        return Samples(items=tuple(Sample(key=prompt, prompt=prompt, image=image) for prompt in own))

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._n = state["n"]

    def report(self) -> dict[str, int]:
        return {}


@frozen(kw_only=True)
class Agreement:
    """The reward."""

    groupwise: ClassVar[bool] = False

    def build(self, place: Place) -> Any:
        return self

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        points = Plane().encode([candidate.image for candidate in candidates]).tokens
        return Scores(values=tuple(agreement(points, [candidate.prompt for candidate in candidates]).tolist()))

    async def close(self) -> None: ...


JUDGED = Weighted(name="agreement", reward=Agreement())


def rollouts(folder: Path, sampler: Sampler, **settings: Any) -> Source[Rollouts]:
    """The live source: all eight directions, 24 points each, judged by agreement."""
    chosen: dict[str, Any] = {"rewards": (JUDGED,), "groups": MODES, "group": 24, "chunk": 512, **settings}
    return DrawnRollouts(prompts=Asked(), sampler=sampler, **chosen).build(place(folder), 1)


# The base, and what is drawn with a model.


def base() -> Network:
    """A model that draws the data whatever is asked; a copy of its own for whoever asks."""
    model = Network()
    model.load_state_dict(_pretrained())
    return model


@cache
def _pretrained() -> Mapping[str, Tensor]:
    """Against the exact velocity, which is quicker than against single targets; some seconds, once a process."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Network()
    steps, batch, lr = 2000, 128, 6e-3
    adam = torch.optim.Adam(model.parameters(), lr=lr)
    prompts = Compass().encode([*DIRECTIONS, "any"]).text
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        which = torch.randint(MODES, (batch,), generator=generator)
        data = CENTRES[which] + STD * torch.randn(batch, 2, generator=generator)
        t = torch.rand(batch, generator=generator).sqrt()  # mostly late, where the field is steep
        x = flow.interpolate(data, torch.randn(batch, 2, generator=generator), t[:, None])
        asked = prompts[torch.randint(len(prompts), (batch,), generator=generator)]
        v = model(_latents(x), t, Condition(text=asked, lengths=(1,) * batch)).tokens
        adam.zero_grad()
        (v - exact_velocity(x, t)).square().mean().backward()
        adam.step()
    return model.state_dict()


def _latents(points: Tensor) -> Latents:
    return Latents(tokens=points, grids=((1, 1, 1),) * len(points))


@torch.no_grad()
def draw(model: DenoiserModule, prompts: Sequence[str], seed: int = 0, steps: int = 25) -> Tensor:
    """(B, 2) points by the ordinary equation, one a prompt."""
    noise = torch.randn(len(prompts), 2, generator=torch.Generator().manual_seed(seed))
    return Euler(steps=steps, shift="none").sample(model, _latents(noise), Compass().encode(prompts)).tokens


def measure(model: DenoiserModule, seed: int = 1) -> tuple[float, float]:
    """(reward, share on the data) of 2048 points, all directions alike."""
    prompts = DIRECTIONS * 256
    points = draw(model, prompts, seed)
    return agreement(points, prompts).mean().item(), on_data(points).float().mean().item()


def pairs(count: int, seed: int = 2) -> tuple[Pair, ...]:
    """Offline preferences: of two points that the base drew for a direction, the one that agrees more is preferred."""
    prompts = (DIRECTIONS * -(-count // MODES))[:count]
    first, second = draw(base(), prompts * 2, seed).chunk(2)
    better = agreement(first, prompts) >= agreement(second, prompts)
    winners = torch.where(better[:, None], first, second)
    losers = torch.where(better[:, None], second, first)
    return tuple(
        Pair(key=str(i), prompt=prompt, winner=_latents(winners[i : i + 1]), loser=_latents(losers[i : i + 1]))
        for i, prompt in enumerate(prompts)
    )


class OfflinePairs:
    """A live source of them, shuffled anew each time round."""

    def __init__(self, items: tuple[Pair, ...], seed: int = 0) -> None:
        self._items, self._seed, self._n = items, seed, 0

    def draw(self, count: int) -> Pairs:
        own = range(self._n, self._n + count)
        self._n += count
        return Pairs(items=tuple(self._item(n) for n in own))

    def _item(self, n: int) -> Pair:
        return self._items[_order(len(self._items), self._seed + n // len(self._items))[n % len(self._items)]]

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._n = state["n"]

    def report(self) -> dict[str, int]:
        return {}


@cache
def _order(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist())


# Training, by the loop's own step.


def encoders() -> Encoders:
    return Encoders(autoencoder=Plane(), conditioner=Compass())


def place(folder: Path, seed: int = 0) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=seed, folder=folder)


def train(
    objective: Objective[Any],
    source: Source[Any],
    folder: Path,
    *,
    steps: int,
    batch: int,
    lr: float = 1e-3,
    model: DenoiserModule | None = None,
    accumulate: int = 1,
    clip: float = 1.0,
    seed: int = 0,
    strategy: Strategy | None = None,
) -> tuple[DenoiserModule, list[Mapping[str, float]]]:
    """From the base (or ``model``, in place): the trained model, and what each step told (``loss`` among it).

    A source that draws with the model is told which; the objective gets the shadows it asks for. The source is closed
    at the end.
    """
    model = model or base()
    settings = Train(steps=steps, batch=batch, accumulate=accumulate, clip=clip, seed=seed, ema=0, prefetch=0)
    rules = objective.shadows() if isinstance(objective, Shadowed) else {}
    run = Run(
        folder=folder,
        recipe="",
        train=settings,
        guidance=Guidance(scale=1.0),
        preview=Preview(),
        encoders=encoders(),
        model=model,
        objective=objective,
        sampler=Euler(steps=25, shift="none"),
        source=source,
        optimizer=AdamW(lr=lr, betas=(0.9, 0.99), eps=1e-15, schedule="cosine").build(model, steps),
        strategy=strategy or Single(device="cpu").build(),
        store=None,  # type: ignore[arg-type]  # nothing is saved
        shadows={name: Shadow(model, rule) for name, rule in rules.items()},
        trackers=[],
        evaluations=[],
        change=None,  # type: ignore[arg-type]  # nor changed
    )
    if isinstance(source, OnPolicy):
        source.follow(run.models)
    told: list[Mapping[str, float]] = []
    with loop.closing(run), loop.feeding(run) as feed:
        for _ in range(steps):
            done = loop.step(run, feed)
            told.append({**done.parts, "loss": done.loss, "grad_norm": done.grad_norm})
    return model, told

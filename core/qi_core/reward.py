"""Rewards: what a picture is worth, as a number or, where it could not be told, as nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.place import Place


@frozen(kw_only=True, eq=False)
class Candidate:
    """A picture to be judged, and what it was drawn for."""

    key: str
    """Names it in requests and logs; unique within a run."""
    group: str
    """The prompt's id. Candidates of one group answer the same prompt; two prompts of the same words are two groups."""
    prompt: str
    image: Tensor
    """(3, H, W) uint8, RGB, decoded whole, never in tiles."""
    text: str = ""
    """The string that should stand in the picture, where it is known."""
    references: tuple[Tensor, ...] = ()
    """Pictures that were to be edited, each (3, H, W) uint8."""


@frozen(kw_only=True)
class Scores:
    """What a reward found, candidate by candidate."""

    values: tuple[float | None, ...]
    """Higher is better. None: it could not be told; the candidate is left out of training (a 0 would be a verdict)."""
    parts: Mapping[str, tuple[float | None, ...]] = field(factory=dict)
    """Figures behind the values, by name, to look at."""
    failures: Mapping[str, int] = field(factory=dict)
    """Why values are None, counted by reason."""


class Reward(Protocol):
    """A live reward. Deterministic: the same pictures get the same scores, or a resumed run would differ."""

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Judge a batch. Runs in an event loop of its own thread, several calls at once: work on the CPU belongs into
        ``asyncio.to_thread``. Raises QiError where no later call could do better (a wrong address, a missing model);
        what fails for one candidate is a None in its place."""
        ...

    async def close(self) -> None:
        """Let go of connections and processes. Called once, after the last score."""
        ...


class RewardComponent(Protocol):
    """The settings of a reward."""

    @property
    def groupwise(self) -> bool:
        """Whether it must see all candidates of a group in one call (it ranks them); else batches may be cut anyhow.
        A ``ClassVar[bool]`` where it is always so."""
        ...

    def build(self, place: Place) -> Reward:
        """Load models, find the server. Raises QiError where they aren't there."""
        ...


def _finite(_: object, attribute: Attribute[float], value: float) -> None:
    if not isfinite(value):
        raise ValueError(f"'{attribute.name}' must be a finite number, not {value}")


@frozen(kw_only=True)
class Weighted:
    """A reward and how much it counts."""

    name: str = field(validator=validators.min_len(1))
    """Under which name its figures are told."""
    weight: float = field(default=1.0, validator=_finite)
    """Rewards are added up with their weights. 0: only watched, never learned from; such a one tells hacking."""
    reward: RewardComponent
    """A reward: its name, or a table with its name and its keys."""


def some_count(_: object, attribute: Attribute[tuple[Weighted, ...]], value: tuple[Weighted, ...]) -> None:
    """Validator of a field of several rewards: names apart, and one with a weight at least."""
    names = [weighted.name for weighted in value]
    if twins := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two rewards are called {min(twins)!r}; give each a name of its own")
    if not any(weighted.weight for weighted in value):
        raise ValueError(f"'{attribute.name}' has none with a weight, so all pictures are worth the same; give one")

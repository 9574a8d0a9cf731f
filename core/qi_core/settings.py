"""The recipe's sections that are no components: settings of the loop and of drawing pictures. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

from attrs import Attribute, field, frozen, validators

from qi_core.cache.settings import CacheSettings
from qi_core.engine import EngineComponent
from qi_core.errors import QiError
from qi_core.filter import FilterComponent

Shift: TypeAlias = Literal["none", "qwen-image"] | float
"""How times are moved toward noise: not at all, as the released scheduler does by number of image tokens, or by a
fixed factor on the odds of sigma."""


def above_zero(_: object, attribute: Attribute[Shift], value: Shift) -> None:
    """Validator of a field of type ``Shift``: a factor must be above 0 and finite."""
    if not isinstance(value, str) and not 0 < value < math.inf:
        raise ValueError(f"'{attribute.name}' must be > 0 and finite: {value}")


def _weights(_: object, attribute: Attribute[Mapping[str, float]], value: Mapping[str, float]) -> None:
    for name, weight in value.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"'{attribute.name}.{name}' is {weight:g}; wanted a weight of 0 or more")
    if value and not any(value.values()):
        raise ValueError(f"'{attribute.name}' sums to nothing; give some part a weight above 0")


def _seed(_: object, attribute: Attribute[int], value: int) -> None:
    # What torch's generators take. A QiError, since --seed of qi sample comes here without a recipe's reader.
    if not 0 <= value < 2**63:
        raise QiError(f"{attribute.name}: {value}; wanted 0 to 2**63 - 1")


@frozen(kw_only=True)
class Guidance:
    """Classifier-free guidance with two forward passes ("true CFG"), packed into one."""

    scale: float = 4.0
    """1 means no guidance: the negative prompt is not even encoded."""
    rescale: bool = True
    """Give the guided velocity of each token the norm of the positive one, as the released pipeline does."""
    negative: str = " "
    """The negative prompt. The released models were trained with a single space."""


@frozen(kw_only=True)
class Train:
    """The loop."""

    steps: int = field(default=1000, validator=validators.gt(0))
    """Updates of the weights, in all."""
    batch: int = field(default=32, validator=validators.gt(0))
    """Samples an update, over all ranks and micro-batches."""
    accumulate: int = field(default=1, validator=validators.gt(0))
    """Micro-batches an update: the same gradients in less memory."""
    clip: float = field(default=1.0, validator=validators.ge(0))
    """Gradient norm above which gradients are scaled down; 0: never."""
    spike: float = field(default=0.0, validator=validators.ge(0))
    """An update whose gradient norm is so many times the median of the last 50 is left out and counted; 20 in a row
    end the run, with its last checkpoint whole. 0: none is. Reinforcement learning wants about 10."""
    ema: float = field(default=0.999, validator=[validators.ge(0), validators.lt(1)])
    """Decay of the averaged weights that previews and exports use; 0: none are kept."""
    seed: int = field(default=0, validator=_seed)
    """Decides weights, order of data, noise and times."""
    save_every: int = field(default=500, validator=validators.ge(0))
    """Steps between checkpoints; 0: only at the end."""
    evaluate_first: bool = False
    """Evaluate and draw previews before the first update too: what the run starts from, beside what it comes to."""
    prefetch: int = field(default=2, validator=validators.ge(0))
    """Batches made ahead by a thread; 0: made when needed."""


@frozen(kw_only=True)
class Data:
    """How samples come from the source to the loop."""

    engine: EngineComponent | None = None
    """Who makes and encodes samples: "inline" (this process: threads make, the loop encodes), "local" (processes of
    this machine), "remote" (what ``qi produce`` has started), "ray" (actors on many machines). None is "inline"."""
    workers: int = field(default=4, validator=validators.gt(0))
    """Threads that make samples, in each process that does. Has no effect on what is made."""
    portion: int = field(default=8, validator=validators.gt(0))
    """Samples made and encoded together."""
    filters: tuple[FilterComponent, ...] = ()
    """What a sample must have to be trained on; who fails one is replaced, as one that can't be read is."""
    mixture: Mapping[str, float] = field(factory=dict, validator=_weights)
    """Weights of the source's named parts, in place of those that stand there; parts that are not named keep theirs.
    0 switches a part off."""
    cache: CacheSettings | None = None
    """Where latents and text embeddings are kept, so that each picture and caption is encoded once; see docs/cache.md.
    None: they are encoded each time."""
    fence: Literal["drop", "drain"] = "drop"
    """What becomes of batches made ahead when the data is changed while the run goes on: they are made again by the
    new settings, from the next step on ("drop"), or are trained on first ("drain")."""
    patience: float = field(default=3600.0, validator=validators.gt(0))
    """Seconds after which a portion that does not come ends the run."""
    broken: int = field(default=100, validator=validators.ge(0))
    """So many samples among the last 10,000 that cannot be read end the run (a tenth of it is told): the data or a
    disk is not what it was. What filters refuse does not count. 0: no limit."""


@frozen(kw_only=True)
class Preview:
    """Pictures drawn while the run goes on, and the defaults of ``qi sample``."""

    every: int = field(default=0, validator=validators.ge(0))
    """Steps between two; 0: none."""
    prompts: tuple[str, ...] = ()
    """What to draw."""
    height: int = field(default=1024, validator=validators.gt(0))
    """Pixels."""
    width: int = field(default=1024, validator=validators.gt(0))
    """Pixels."""

"""The live rewards."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO

from attrs import frozen
from PIL import Image
from torch import Tensor

from qi_core import Candidate, Scores
from qi_plugins.reward_quality.brisque import SMALLEST, features
from qi_plugins.reward_quality.machine import Machine

FLAT, SMALL = "a picture without variation", f"a picture with a side below {SMALLEST} pixels"


@frozen
class JpegSize:
    """Live ``compressibility`` and ``incompressibility``."""

    quality: int
    sign: float

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        return await each(self._one, candidates)

    def _one(self, picture: Image.Image) -> float:
        stream = BytesIO()
        picture.save(stream, format="JPEG", quality=self.quality)
        return self.sign * stream.tell() / 1000

    async def close(self) -> None:
        """See ``Reward.close``. There is nothing to let go of."""


@frozen
class Natural:
    """A live ``brisque``."""

    machine: Machine

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        return await each(self._one, candidates)

    def _one(self, picture: Image.Image) -> float | str:
        if min(picture.size) < SMALLEST:
            return SMALL
        low, high = picture.convert("L").getextrema()
        if low == high:  # its dark surroundings would make an edge to be judged
            return FLAT
        score = self.machine.score(features(picture))
        return 1.0 - score / 100.0 if math.isfinite(score) else FLAT

    async def close(self) -> None:
        """See ``Reward.close``. There is nothing to let go of."""


async def each(one: Callable[[Image.Image], float | str], candidates: Sequence[Candidate]) -> Scores:
    """Picture by picture, in a thread. ``one`` gives the score, or why there is none."""
    found = [await asyncio.to_thread(lambda image: one(as_picture(image)), c.image) for c in candidates]
    return Scores(
        values=tuple(None if isinstance(value, str) else value for value in found),
        failures=dict(Counter(reason for reason in found if isinstance(reason, str))),
    )


def as_picture(image: Tensor) -> Image.Image:
    """From (3, H, W) uint8."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())

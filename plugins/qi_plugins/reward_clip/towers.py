"""The live reward: two towers, read through transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qi_core import Candidate, Scores
from qi_core.towers import Towers

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.reward_clip.component import ClipSimilarity


class Scoring:
    """A live ``pickscore``, ``hps`` or ``clip-similarity``."""

    def __init__(self, settings: ClipSimilarity, place: Place) -> None:
        """Reads the model. Raises QiError unless it is there and whole."""
        self.settings = settings
        self._towers = Towers(settings, place, "reward")

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        return await asyncio.to_thread(self._score, tuple(candidates))

    def _score(self, candidates: Sequence[Candidate]) -> Scores:
        prompts = list(dict.fromkeys(candidate.prompt for candidate in candidates))
        told, cut = self._towers.of_texts(prompts)
        shown = self._towers.of_pictures([candidate.image for candidate in candidates])
        which = torch.tensor([prompts.index(candidate.prompt) for candidate in candidates], device=shown.device)
        scale = self._towers.scale
        return Scores(
            values=tuple(self.settings.value(cosine, scale) for cosine in (shown * told[which]).sum(dim=-1).tolist()),
            parts={"cut": tuple(float(cut[at]) for at in which.tolist())},
        )

    async def close(self) -> None:
        """See ``Reward.close``. There is nothing to let go of."""

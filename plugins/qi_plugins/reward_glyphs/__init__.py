"""Reward ``glyph-match``: pictures of strings, read by the renderer's own glyphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import RewardComponent


@hookimpl
def qi_rewards() -> Mapping[str, type[RewardComponent]]:
    from qi_plugins.reward_glyphs.component import GlyphMatch

    return {"glyph-match": GlyphMatch}

"""The settings of ``characters``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Place
    from qi_core.planning import Size
    from qi_plugins.conditioner_characters.embedding import CharacterTokens


@frozen(kw_only=True)
class Characters:
    """A laptop's stand-in for a language model: it tells which characters and words stand where, and nothing more.

    Text between double quotes ("..." or “...”) gives one token a character; the rest gives one a lower-cased word,
    Chinese character or punctuation mark. Each token is a fixed random vector that its name alone decides. There is
    no understanding: "crimson" is as far from "red" as "teapot" is, and reference pictures are refused.
    """

    width: int = field(default=256, validator=validators.gt(0))
    """Values in a token."""
    positions: bool = False
    """Add to each quoted character a fixed vector for its place within the quotes. The order is told to the
    denoiser anyway, by the rotary positions of the text tokens; a short trial on words learned no sooner with it."""

    def build(self, place: Place) -> CharacterTokens:
        from qi_plugins.conditioner_characters.embedding import CharacterTokens

        return CharacterTokens(width=self.width, positions=self.positions, device=place.device)

    def plan_size(self) -> Size:
        """See ``qi_core.planning.Sized``."""
        from qi_core.planning import Size

        return Size(width=self.width)

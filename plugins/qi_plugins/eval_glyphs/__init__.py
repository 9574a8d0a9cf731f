"""Evaluation ``glyph-match``: strings that were never trained on, painted and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import EvaluationComponent


@hookimpl
def qi_evaluations() -> Mapping[str, type[EvaluationComponent]]:
    from qi_plugins.eval_glyphs.component import GlyphMatch

    return {"glyph-match": GlyphMatch}

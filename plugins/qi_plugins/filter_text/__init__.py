"""Filters of the text that stands in pictures: how much of it there is, and how small it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import FilterComponent


@hookimpl
def qi_filters() -> Mapping[str, type[FilterComponent]]:
    from qi_plugins.filter_text.component import SmallText, TextDensity

    return {"text-density": TextDensity, "small-text": SmallText}

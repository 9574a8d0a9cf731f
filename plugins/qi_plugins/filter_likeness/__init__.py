"""Filters by models that look: do picture and caption go together, is it beautiful, may it be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import FilterComponent


@hookimpl
def qi_filters() -> Mapping[str, type[FilterComponent]]:
    from qi_plugins.filter_likeness.colours import NamedColours
    from qi_plugins.filter_likeness.component import Aesthetic, ImageText, Nsfw

    return {"image-text": ImageText, "aesthetic": Aesthetic, "nsfw": Nsfw, "named-colours": NamedColours}

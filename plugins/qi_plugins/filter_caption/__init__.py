"""Filters of captions: how long they are, and whether they are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import FilterComponent


@hookimpl
def qi_filters() -> Mapping[str, type[FilterComponent]]:
    from qi_plugins.filter_caption.component import InvalidCaption, TokenLength

    return {"token-length": TokenLength, "invalid-caption": InvalidCaption}

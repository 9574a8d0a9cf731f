"""Filters by what is known of a sample: its key on a list, its category."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import FilterComponent


@hookimpl
def qi_filters() -> Mapping[str, type[FilterComponent]]:
    from qi_plugins.filter_listed.component import InCategory, Listed

    return {"listed": Listed, "category": InCategory}

"""Sources ``composed-text`` (text on things in scenes) and ``templates`` (slides, posters, screens)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_synthetic.component import ComposedText, Templates

    return {"composed-text": ComposedText, "templates": Templates}

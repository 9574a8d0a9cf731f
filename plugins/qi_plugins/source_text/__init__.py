"""Sources ``rendered-text`` (strings drawn with a font, captioned with what they say) and ``rendered-pairs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_text.component import RenderedPairs, RenderedText

    return {"rendered-text": RenderedText, "rendered-pairs": RenderedPairs}

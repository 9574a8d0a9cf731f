"""Pictures with captions from a folder, a JSONL or tar shards, and curated sets of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core.source import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_images.curated import Curated
    from qi_plugins.source_images.images import Images

    return {"curated": Curated, "images": Images}

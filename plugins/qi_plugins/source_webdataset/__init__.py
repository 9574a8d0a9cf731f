"""Source ``webdataset``: tar shards on disk or behind HTTP, with random access and without unpacking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from qi_core.source import SourceComponent


@hookimpl
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:
    from qi_plugins.source_webdataset.component import WebDataset

    return {"webdataset": WebDataset}

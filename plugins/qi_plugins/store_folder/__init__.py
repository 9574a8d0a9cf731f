"""The store "folder": checkpoints as folders of safetensors files beside the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import StoreComponent


@hookimpl
def qi_stores() -> Mapping[str, type[StoreComponent]]:
    from qi_plugins.store_folder.component import Folder

    return {"folder": Folder}

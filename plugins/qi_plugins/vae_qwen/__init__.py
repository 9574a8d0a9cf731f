"""The autoencoder of the released Qwen-Image models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core.encoder import Autoencoder
    from qi_core.place import Component


@hookimpl
def qi_autoencoders() -> Mapping[str, type[Component[Autoencoder]]]:
    from qi_plugins.vae_qwen.component import VaeQwen

    return {"vae-qwen": VaeQwen}

"""Autoencoder ``patchify``: pixels cut into tokens, nothing learned and nothing lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import Autoencoder, Component


@hookimpl
def qi_autoencoders() -> Mapping[str, type[Component[Autoencoder]]]:
    from qi_plugins.autoencoder_patchify.component import Patchify

    return {"patchify": Patchify}

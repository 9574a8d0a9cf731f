"""Conditioner ``characters``: quoted characters and words, each a fixed random vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import Component, Conditioner


@hookimpl
def qi_conditioners() -> Mapping[str, type[Component[Conditioner]]]:
    from qi_plugins.conditioner_characters.component import Characters

    return {"characters": Characters}

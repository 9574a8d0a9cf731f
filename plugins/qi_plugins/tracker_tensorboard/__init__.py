"""The tracker "tensorboard": curves and pictures for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qi_core.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qi_core import TrackerComponent


@hookimpl
def qi_trackers() -> Mapping[str, type[TrackerComponent]]:
    from qi_plugins.tracker_tensorboard.component import TensorBoard

    return {"tensorboard": TensorBoard}

"""Settings of the tracker "tensorboard"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

if TYPE_CHECKING:
    from qi_core import Place, Tracker


@frozen(kw_only=True)
class TensorBoard:
    """Curves and pictures in ``tensorboard/`` of the run's folder: ``tensorboard --logdir RUN``."""

    every: int = field(default=10, validator=validators.gt(0))
    """Steps between two points of a curve; the loss is the mean over them."""
    flush_seconds: float = field(default=10.0, validator=validators.ge(0))
    """At most so long until a point is in the file."""

    def build(self, place: Place) -> Tracker:
        from qi_plugins.tracker_tensorboard.board import LiveTensorBoard

        return LiveTensorBoard(place.folder / "tensorboard", self.every, self.flush_seconds)

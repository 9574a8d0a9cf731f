"""Listeners: whoever wants to know what a run does. Trackers (screen, log, TensorBoard) are listeners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.place import Place


@frozen(kw_only=True)
class Start:
    """A run begins or goes on."""

    folder: Path
    step: int
    """Steps already done."""
    steps: int
    """Steps in all."""
    parameters: int
    """Trained ones."""
    notes: tuple[str, ...] = ()
    """What the user should be told: device, what was resumed, what the data source skipped."""


@frozen(kw_only=True)
class StepDone:
    """One step is done."""

    step: int
    """Steps done, this one included."""
    loss: float
    lr: float
    grad_norm: float
    samples: int
    seconds: Mapping[str, float]
    """Where the time went: ``data``, ``encode``, ``forward``, ``backward``, ``step``."""
    parts: Mapping[str, float] = field(factory=dict)
    """What the objective told, by name."""
    left_out: tuple[str, ...] = ()
    """The samples, by key, of an update that was left out because its gradients could not be used."""


@frozen(kw_only=True, eq=False)
class Picture:
    """A picture with what stands under it."""

    image: Tensor
    """(3, H, W) float in [-1, 1]."""
    caption: str


@frozen(kw_only=True, eq=False)
class Evaluated:
    """What an evaluation found."""

    step: int
    name: str
    scalars: Mapping[str, float] = field(factory=dict)
    pictures: tuple[Picture, ...] = ()
    path: Path | None = None
    """The picture grid, already written."""


@frozen(kw_only=True)
class Change:
    """A live change, at the step at which it takes effect."""

    step: int
    setting: str
    """A line of TOML: ``sampler = "heun"``."""


@frozen(kw_only=True)
class Notice:
    """Something that a person should know, at the step at which it was noticed."""

    step: int
    text: str


@frozen(kw_only=True)
class Saved:
    """A checkpoint is whole. It may be one of some steps ago, for stores write while training goes on."""

    step: int
    path: Path
    seconds: float
    """From its beginning until it was whole."""
    stall: float = 0.0
    """Seconds of these for which training stood still."""


@frozen(kw_only=True)
class Ended:
    """The run stops."""

    step: int
    reason: str
    """``done``, or the signal's name."""
    seconds: float
    skipped: Mapping[str, int] = field(factory=dict)
    """What the source skipped, by reason."""
    summary: tuple[str, ...] = ()
    """Lines to print last: figures of the last evaluations, paths of pictures."""


class Tracker(Protocol):
    """A live listener. It must never change the run; one that fails with QiError stops it."""

    def tell(self, event: Start | StepDone | Evaluated | Change | Notice | Saved | Ended) -> None:
        """Called in the loop's thread: be quick."""
        ...


class TrackerComponent(Protocol):
    """The settings of a tracker."""

    def build(self, place: Place) -> Tracker: ...

"""The settings of ``held-out``, and what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Attribute, define, field, frozen, validators

from qi_core import Rollouts
from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from collections.abc import Callable

    from qi_core import Batch, Dice, Evaluated, Loss, Mean, Place


def _lies_there(_: object, __: Attribute[Any], value: SourceComponent[Any]) -> None:
    if value.gives is Rollouts:
        raise ValueError(f"'source': {type(value).__name__} draws with the model; wanted data that lies there")


@frozen(kw_only=True)
class HeldOut:
    """The objective's loss and all its parts on data that is not trained on: the validation loss of flow matching, the
    accuracy of dpo on pairs that it never saw. With the weights that are being trained, not their average.

    The same data with the same times and noises at every evaluation, so that figures can be compared.
    """

    source: SourceComponent[Any] = field(validator=_lies_there)
    """Data of the kind that the objective takes. Give it split = "held-out", or a path of its own."""
    every: int = field(default=0, validator=validators.ge(0))
    """Steps between two; 0: only at the end."""
    count: int = field(default=64, validator=validators.gt(0))
    """Samples, from the source's first on. More than it has: they come again, with other times and noises."""
    batch: int = field(default=16, validator=validators.gt(0))
    """Samples at once. Has no effect on what is drawn."""
    title: str = "held-out"
    """Under which name figures are kept; tells several evaluations of a run apart."""

    def build(self, place: Place) -> HeldOutLoss:
        """Draws the data. Raises QiError if the source draws with the model, or has nothing."""
        from qi_core import OnPolicy, QiError

        live = self.source.build(place, place.multiple)
        if isinstance(live, OnPolicy):
            raise QiError(
                f"{self.title}: {type(self.source).__name__} draws with the model that is being trained; wanted data "
                "that lies there, the same at every evaluation; give another source"
            )
        data: Batch = live.draw(self.count)
        return HeldOutLoss(settings=self, gives=self.source.gives, data=data, seed=place.seed)


@define(kw_only=True, eq=False)
class HeldOutLoss:
    """A live ``held-out``."""

    settings: HeldOut
    gives: type
    data: Batch
    seed: int

    def validate(self, loss: Callable[[Any, Dice], Loss], step: int) -> Evaluated:
        """See ``Validation.validate``."""
        from qi_core import Dice, Evaluated

        dice = Dice(self.seed, -1)  # no step of the run has that number, so none has these times and noises
        total = 0.0
        parts: dict[str, Mean] = {}
        for some in self.data.split(-(-len(self.data) // self.settings.batch)):
            found = loss(some, dice)
            total += float(found.value) * len(some)
            for name, mean in found.parts.items():
                parts[name] = parts[name].merged(mean) if name in parts else mean
        # A part that nothing fell into is no figure.
        means = {name: float(mean.total / mean.count) for name, mean in parts.items() if float(mean.count)}
        return Evaluated(step=step, name=self.settings.title, scalars={"loss": total / len(self.data)} | means)

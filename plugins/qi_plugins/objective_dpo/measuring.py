"""Evaluation ``reference-errors``: what the model at the run's start says of every pair, written down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Attribute, define, field, frozen, validators

from qi_core import Pairs, QiError
from qi_core.source import SourceComponent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qi_core import Dice, Evaluated, Loss, Pair, Place, StoredError

    Asks = Callable[[Any, Dice], Loss]


def _pairs(_: object, __: Attribute[Any], value: SourceComponent[Any]) -> None:
    if value.gives is not Pairs:
        raise ValueError(f"'source' gives {value.gives.__name__}; wanted a source of Pairs, such as pairs")


@frozen(kw_only=True)
class ReferenceErrors:
    """Measures the errors of the model before its first update, at a few times and noises a pair, for dpo with
    reference = "stored": a full-parameter run then holds no second copy of its weights. Wants
    train.evaluate_first = true. What was measured before a run was stopped is not measured again."""

    source: SourceComponent[Any] = field(validator=_pairs)
    """The source that is trained on, with the same settings."""
    path: Path
    """Where the errors go: JSON lines, the same path as objective.errors."""
    count: int = field(validator=validators.gt(0))
    """Pairs, from the source's first on: as many as it has."""
    draws: int = field(default=4, validator=validators.gt(0))
    """Times and noises a pair; training sees it at these alone."""
    every: int = field(default=0, validator=validators.ge(0))
    """Has no effect: only the model of step 0 is measured."""
    title: str = "reference-errors"
    """Under which name figures are kept."""

    def build(self, place: Place) -> Measuring:
        return Measuring(settings=self, place=place)


@define(kw_only=True, eq=False)
class Measuring:
    """A live ``reference-errors``."""

    settings: ReferenceErrors
    place: Place
    gives: type = Pairs

    def validate(self, loss: Asks, step: int) -> Evaluated:
        """See ``Validation.validate``."""
        from qi_core import Evaluated
        from qi_plugins.objective_dpo import stored

        path = self.settings.path
        if step == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            stored.whole_lines(path)
            self._measure(loss, stored.read(path) if path.exists() else {})
        known = stored.read(path)
        scalars = {"pairs": float(len(known)), "errors": float(sum(map(len, known.values())))}
        return Evaluated(step=step, name=self.settings.title, scalars=scalars)

    def _measure(self, loss: Asks, known: Mapping[str, tuple[StoredError, ...]]) -> None:
        """What isn't known yet; of what is, the first is measured again, lest it be another model's."""
        from qi_plugins.objective_dpo import stored

        source = self.settings.source.build(self.place, self.place.multiple)
        checked = False
        seen: set[str] = set()
        with self.settings.path.open("ab") as file:
            for _ in range(self.settings.count):
                pair: Pair = source.draw(1).items[0]
                if pair.key in seen:
                    raise QiError(
                        f"{self.settings.title}: the pair {pair.key!r} came twice among {self.settings.count}; "
                        f"the source has {len(seen)}: set count = {len(seen)}"
                    )
                seen.add(pair.key)
                before = {error.seed: error for error in known.get(pair.key, ())}
                for seed in (self._seed(pair.key, number) for number in range(self.settings.draws)):
                    if seed in before and checked:
                        continue
                    found = self._one(loss, pair, seed)
                    if seed in before:
                        _refuse_others(self.settings.path, before[seed], found)
                        checked = True
                        continue
                    file.write(stored.line(pair.key, found))
                    file.flush()

    def _one(self, loss: Asks, pair: Pair, seed: int) -> StoredError:
        from math import nan

        from attrs import evolve

        from qi_core import Dice, StoredError

        asked = Pairs(items=(evolve(pair, stored=(StoredError(seed=seed, winner=nan, loser=nan),)),))
        parts = loss(asked, Dice(0, 0)).parts
        try:
            winner, loser, t = (float(parts[name].total) for name in ("error/winner", "error/loser", "t"))
        except KeyError:
            raise QiError(f'{self.settings.title}: wants objective = "dpo" with reference = "stored"') from None
        return StoredError(seed=seed, winner=winner, loser=loser, t=t)

    def _seed(self, key: str, number: int) -> int:
        """63 bits, as torch's generators take."""
        from hashlib import blake2b

        name = f"{self.place.seed}/reference-errors/{key}/{number}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 1


def _refuse_others(path: Path, before: StoredError, now: StoredError) -> None:
    """Rounding apart (another device, another dtype), the same model says the same."""
    from math import isclose

    for was, found in ((before.winner, now.winner), (before.loser, now.loser)):
        if not isclose(was, found, rel_tol=0.02):
            raise QiError(
                f"{path}: holds an error of {was:.4g} where this model's is {found:.4g}: it was measured with other "
                "weights or data; delete it to measure anew, or name another path"
            )

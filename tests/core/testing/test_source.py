"""Wrong sources are told what they break."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from torch import Tensor

from qi_core import Examples, Place, Sample, Samples
from qi_core.testing import check_source


class Counting:
    """A live source that keeps its contract; what follows breaks it in one place each."""

    def __init__(self, seed: int, multiple: int) -> None:
        self.seed, self.multiple = seed, multiple
        self.position: dict[str, Any] = {"n": 0}

    def draw(self, count: int) -> Samples:
        items = tuple(self.sample(self.position["n"] + i) for i in range(count))
        self.position = {"n": self.position["n"] + count}
        return Samples(items=items)

    def sample(self, n: int) -> Sample:
        return Sample(key=f"{n}", prompt=f"number {n} of {self.seed}", image=self.image(n))

    def image(self, n: int) -> Tensor:
        return torch.full((3, self.multiple, 2 * self.multiple), n % 256, dtype=torch.uint8)

    def state_dict(self) -> dict[str, Any]:
        return self.position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = dict(state)

    def report(self) -> dict[str, int]:
        return {}


@frozen(kw_only=True)
class Source:
    gives: ClassVar[type] = Samples

    kind: type[Counting] = Counting

    def build(self, place: Place, multiple: int) -> Counting:
        return self.kind(place.seed, multiple)


class Skips(Counting):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = {"n": state["n"] + 1}


class Prefetches(Counting):
    """Its position runs ahead of what was drawn, to the end of a block of four."""

    def state_dict(self) -> dict[str, Any]:
        return {"n": -(-self.position["n"] // 4) * 4}


class Aliases(Counting):
    def draw(self, count: int) -> Samples:
        items = tuple(self.sample(self.position["n"] + i) for i in range(count))
        self.position["n"] += count
        return Samples(items=items)


class ByDraw(Counting):
    """What is drawn together is sorted, so the size of draws shows."""

    def draw(self, count: int) -> Samples:
        return Samples(items=tuple(reversed(super().draw(count).items)))


class Dice(Counting):
    def image(self, n: int) -> Tensor:
        return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)


class OfTheProcess(Counting):
    """Goes on where another source of the process stopped."""

    drawn = 0

    def sample(self, n: int) -> Sample:
        type(self).drawn += 1
        return Sample(key=f"{n}", prompt=f"{self.drawn}", image=self.image(n))


class Odd(Counting):
    def image(self, n: int) -> Tensor:
        return super().image(n)[:, :-1]


class Floats(Counting):
    def image(self, n: int) -> Tensor:
        return super().image(n) / 255


class OddReference(Counting):
    def sample(self, n: int) -> Sample:
        return Sample(key=f"{n}", prompt="", image=self.image(n), references=(self.image(n)[:, 1:],))


class Tuples(Counting):
    def state_dict(self) -> dict[str, Any]:
        return {"n": self.position["n"], "parts": (1, 2)}


class Short(Counting):
    def draw(self, count: int) -> Samples:
        return super().draw(min(count, 2))


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Skips, "after the position of sample 0, a new source that loads it does not give sample 0 next"),
        (Prefetches, "after the position of sample 1, a new source that loads it does not give sample 1 next"),
        (Aliases, "must be a copy"),
        (ByDraw, "sample 1 differs from that of a source .* that draws one by one"),
        (Dice, "global generator of torch"),
        (OfTheProcess, "sample 0 differs"),
        (Odd, "16x7 pixels; wanted multiples of 8"),
        (Floats, r"torch.float32; wanted \(3, H, W\) uint8"),
        (OddReference, "the reference of '0' is 16x7 pixels"),
        (Tuples, "comes back from JSON as something else"),
        (Short, r"draw\(3\) gave 2 samples"),
    ],
)
def test_a_wrong_source_is_told(kind: type[Counting], broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_source(Source(kind=kind))


def test_a_right_source_passes() -> None:
    check_source(Source())


def test_what_it_says_that_it_gives_is_what_it_gives() -> None:
    @frozen(kw_only=True)
    class Lies(Source):
        gives: ClassVar[type] = Examples

    with pytest.raises(AssertionError, match="it says that it gives Examples"):
        check_source(Lies())

"""How a broken promise is told, and what several contracts need."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from qi_core.errors import QiError
from qi_core.place import Place


@frozen
class Contract:
    """One docstring's promises, kept or broken by one component."""

    subject: str
    """Who is checked: the name of a class."""
    docstring: str
    """Where the promise stands."""

    def holds(self, kept: bool, broken: str) -> None:
        """``broken``: the sentence that is told unless ``kept``."""
        if not kept:
            raise AssertionError(f"{self.subject} breaks {self.docstring}: {broken}")

    def refuses(self, what: str, call: Callable[[], object]) -> None:
        """The call must end with QiError."""
        try:
            call()
        except QiError:
            return
        raise AssertionError(f"{self.subject} breaks {self.docstring}: {what} was taken; QiError is promised")

    def near(self, found: Tensor, wanted: Tensor, tolerance: float, broken: str) -> None:
        """``found`` is ``wanted`` within a tolerance relative to its largest value (at least 1)."""
        if found.shape != wanted.shape:
            raise AssertionError(
                f"{self.subject} breaks {self.docstring}: {broken} ({tuple(found.shape)} beside {tuple(wanted.shape)})"
            )
        if not wanted.numel():
            return
        worst = float((found.float() - wanted.float()).abs().max())
        allowed = tolerance * max(1.0, float(wanted.float().abs().max()))
        self.holds(worst <= allowed, f"{broken} (differs by {worst:.2g}; at most {allowed:.2g} is allowed)")

    def is_json(self, value: object, what: str) -> Any:
        """``what`` must come back from JSON as it was; the value that came back."""
        try:
            back = json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{self.subject} breaks {self.docstring}: {what} is not JSON ({error})") from error
        self.holds(
            back == value, f"{what} comes back from JSON as something else (tuples, or keys that are no strings)"
        )
        return back

    @contextmanager
    def leaves_random_numbers_alone(self, what: str) -> Generator[None]:
        """Nobody may draw from the process's generators: a run could not be repeated."""
        before = _generators()
        yield
        moved = [name for name, state in _generators().items() if state != before[name]]
        self.holds(not moved, f"{what} draws from the global generator of {' and '.join(moved)}")


def contract(subject: object, docstring: str) -> Contract:
    """``subject``: the component, or the live thing."""
    return Contract(type(subject).__name__, docstring)


@contextmanager
def place(seed: int = 0) -> Generator[Place]:
    """The CPU, float32, and a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="qi-testing-") as folder:
        yield Place(device=torch.device("cpu"), dtype=torch.float32, seed=seed, folder=Path(folder))


def same(one: object, other: object) -> bool:
    """Equal to the last bit, types and shapes included. ``slots``, the places in a batch, don't count."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one, other)
        )
    kind: type[Any] = type(one)
    if attrs.has(kind):
        names = [field.name for field in attrs.fields(kind) if field.name != "slots"]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        ones, others = cast("Mapping[object, object]", one), cast("Mapping[object, object]", other)
        return ones.keys() == others.keys() and all(same(ones[key], others[key]) for key in ones)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        left, right = cast("tuple[object, ...]", one), cast("tuple[object, ...]", other)
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return one == other


def _generators() -> dict[str, object]:
    legacy = cast("tuple[str, Any, int, int, float]", np.random.get_state(legacy=True))
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy": (legacy[1].tobytes(), *legacy[2:]),
    }

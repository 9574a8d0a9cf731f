"""The contract of filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from attrs import evolve

from qi_core.data import Origin, Sample
from qi_core.filter import Filter, FilterComponent
from qi_core.testing.contract import Contract, contract, place
from qi_core.testing.fakes import picture

CAPTIONS = ("", "a red cat", "一只红色的猫坐在窗台上", 'a sign that says "OPEN"', "Sorry, I cannot help with that.")


def check_filter(component: FilterComponent, *, samples: Sequence[Sample] | None = None) -> None:
    """``qi_core.filter``: a number a sample and a verdict a number, that depend on the sample and the settings alone.

    ``samples``: some of which it can say something (else pictures of several sizes with captions).
    """
    told = contract(component, "qi_core.filter.Filter")
    judged = tuple(samples or some_samples())
    with place(seed=3) as here, told.leaves_random_numbers_alone("build or measure"):
        first, second = component.build(here), component.build(here)
        copies = [sample.image.clone() for sample in judged]
        values = [_measured(told, first, sample) for sample in judged]
        told.holds(
            all(torch.equal(sample.image, copy) for sample, copy in zip(judged, copies, strict=True)),
            "measure changes the pictures that it is given",
        )
        told.holds(
            any(not math.isnan(value) for value in values),
            "it says nothing of any of the samples, which proves nothing; give it others",
        )
        backward = [first.measure(sample) for sample in judged[::-1]][::-1]
        told.holds(_alike(values, backward), "the same samples get other values in another order")
        anew = [second.measure(sample) for sample in judged]
        told.holds(_alike(values, anew), "one that is built anew gives other values")
        with ThreadPoolExecutor(4) as pool:
            at_once = list(pool.map(first.measure, [*judged, *judged]))
        told.holds(_alike([*values, *values], at_once), "threads that ask at once get other values")
        _verdicts(told, first, second, values)


def some_samples(count: int = 6) -> list[Sample]:
    """Pictures of several sizes; every other one comes from a file."""
    sizes = ((32, 32), (48, 40), (64, 96))
    found: list[Sample] = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        sample = Sample(
            key=f"sample-{number}",
            prompt=CAPTIONS[number % len(CAPTIONS)],
            image=picture(height, width, seed=number),
            category=("", "people/portrait")[number % 2],
        )
        origin = Origin(height=2 * height, width=2 * width, bytes=1000 * (number + 1), turned=number % 4 == 0)
        found.append(evolve(sample, origin=origin) if number % 2 == 0 else sample)
    return found


def _measured(told: Contract, live: Filter, sample: Sample) -> float:
    value = live.measure(sample)
    told.holds(isinstance(value, float), f"measure of {sample.key!r} is {value!r}; wanted a float")  # pyright: ignore[reportUnnecessaryIsInstance]
    return value


def _alike(ones: Sequence[float], others: Sequence[float]) -> bool:
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(ones, others, strict=True))


def _verdicts(told: Contract, first: Filter, second: Filter, values: Sequence[float]) -> None:
    for value in values:
        reason = first.refuses(value)
        told.holds(isinstance(reason, str), f"refuses({value!r}) is {reason!r}; wanted a reason, or ''")  # pyright: ignore[reportUnnecessaryIsInstance]
        told.holds(
            reason == first.refuses(value) == second.refuses(value), f"refuses({value!r}) is not always the same"
        )
    told.holds(not first.refuses(math.nan), "a sample of which nothing can be said (NaN) is refused; it is to be kept")

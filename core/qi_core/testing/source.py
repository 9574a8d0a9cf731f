"""The contract of sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import torch

from qi_core.data import Batch, Sample, Samples
from qi_core.source import Planned, Source, SourceComponent
from qi_core.testing.contract import Contract, contract, place, same
from qi_core.testing.planned import check_planned

DRAWS = (1, 3, 2)
"""Sizes of draws, again and again."""


def check_source(component: SourceComponent[Any], *, multiple: int = 8, count: int = 12) -> None:
    """``qi_core.source``: the n-th sample depends on settings, seed and n alone, and every position can be resumed.
    Of a source that plans also: each is made from its ticket alone.

    ``multiple``: heights and widths must be multiples of it. ``count``: positions to try, from the first on; make it
    large enough to cross what the source has of ends (epochs, blocks, stages).
    """
    told = contract(component, "qi_core.source.Source")
    with place(seed=3) as here:

        def fresh() -> Source[Any]:
            return component.build(here, multiple)

        live = fresh()
        with told.leaves_random_numbers_alone("draw"):
            samples, states = _one_by_one(told, component, live, count)
        if component.gives is Samples:
            _pictures(contract(component, "qi_core.data.Sample"), samples, multiple)
        _unsized(told, fresh(), samples)
        for position, state in enumerate(states):
            resumed = fresh()
            resumed.load_state_dict(state)
            _goes_on(told, resumed, samples, position, "a new source that loads it")
        live.load_state_dict(states[1])
        _goes_on(told, live, samples, 1, "the same source, sent back,")
        if isinstance(live, Planned):
            check_planned(component, fresh, samples)
        reported = live.report()
        told.holds(
            all(isinstance(times, int) and isinstance(reason, str) for reason, times in reported.items()),  # pyright: ignore[reportUnnecessaryIsInstance]
            f"report() is {reported!r}; wanted numbers by reason",
        )


def _one_by_one(
    told: Contract, component: SourceComponent[Any], live: Source[Any], count: int
) -> tuple[list[Batch], list[dict[str, Any]]]:
    """``count`` samples, and the position before each."""
    samples: list[Batch] = []
    states: list[dict[str, Any]] = []
    written: list[str] = []
    live_states: list[dict[str, Any]] = []
    for _ in range(count):
        state = live.state_dict()
        states.append(told.is_json(state, "state_dict()"))
        written.append(json.dumps(state))
        live_states.append(state)
        batch = live.draw(1)
        told.holds(
            isinstance(batch, component.gives), f"it says that it gives {component.gives.__name__} and gives {batch!r}"
        )
        told.holds(len(batch) == 1, f"draw(1) gave {len(batch)} samples")
        samples.append(batch)
    told.holds(
        [json.dumps(state) for state in live_states] == written,
        "a position that state_dict() gave changes when more is drawn; it must be a copy, because batches are drawn "
        "ahead of the step that is saved",
    )
    return samples, states


def _unsized(told: Contract, live: Source[Any], samples: Sequence[Batch]) -> None:
    """The same samples, whatever the size of draws; from a source that was built anew."""
    seen = 0
    for turn in range(len(samples)):
        size = min(DRAWS[turn % len(DRAWS)], len(samples) - seen)
        if not size:
            return
        batch: Batch = live.draw(size)
        told.holds(len(batch) == size, f"draw({size}) gave {len(batch)} samples")
        for single in _singles(batch):
            told.holds(
                same(single, samples[seen]),
                f"sample {seen} differs from that of a source with the same settings and seed that draws one by one",
            )
            seen += 1


def _singles(batch: Batch) -> Sequence[Batch]:
    return batch.split(len(batch))


def _goes_on(told: Contract, live: Source[Any], samples: Sequence[Batch], position: int, who: str) -> None:
    wanted = samples[position : position + 3]
    found = _singles(live.draw(len(wanted)))
    for ahead, (one, other) in enumerate(zip(found, wanted, strict=True)):
        told.holds(
            same(one, other),
            f"after the position of sample {position}, {who} does not give sample {position + ahead} next",
        )


def _pictures(told: Contract, samples: Sequence[Batch], multiple: int) -> None:
    for batch in samples:
        sample: Sample = cast("Samples", batch).items[0]
        told.holds(isinstance(sample.prompt, str), "a prompt is no string")  # pyright: ignore[reportUnnecessaryIsInstance]
        told.holds(bool(sample.key), "a key is empty; it names the sample in logs")
        for what, image in (("image", sample.image), *(("reference", one) for one in sample.references)):
            told.holds(
                image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3,
                f"the {what} of {sample.key!r} is {tuple(image.shape)}, {image.dtype}; wanted (3, H, W) uint8",
            )
            _, height, width = image.shape
            told.holds(
                height > 0 and width > 0 and height % multiple == 0 and width % multiple == 0,
                f"the {what} of {sample.key!r} is {width}x{height} pixels; wanted multiples of {multiple}",
            )

"""What both kinds of combined source do with the sources they are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve

from qi_core.data import Sample, Samples
from qi_core.errors import QiError
from qi_core.place import Place
from qi_core.source import Source, SourceComponent


def refuse_others(where: str, source: SourceComponent[Any]) -> None:
    """Raises QiError unless the source gives samples."""
    if source.gives is not Samples:
        raise QiError(
            f"{where}: {type(source).__name__} gives {source.gives.__name__}; sources that are combined must all give "
            "Samples; take it out, or train on it alone"
        )


def build(source: SourceComponent[Any], place: Place, label: str, multiple: int) -> Source[Samples]:
    """Built with a seed of its own: two children of one kind must not roll the same numbers."""
    seed = int.from_bytes(hashlib.blake2b(f"{place.seed}/{label}".encode(), digest_size=4).digest(), "little")
    return source.build(evolve(place, seed=seed), multiple)


def named(samples: Iterable[Sample], label: str) -> list[Sample]:
    """Keys that stay unique, and that tell in logs where a sample came from."""
    return [evolve(sample, key=f"{label}/{sample.key}") for sample in samples]


def reports(children: Mapping[str, Source[Samples]]) -> dict[str, int]:
    """The children's counts, each with its label."""
    return {
        f"{label}: {reason}": count for label, child in children.items() for reason, count in child.report().items()
    }

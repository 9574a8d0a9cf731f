"""``qi`` that writes down what each step trains on: ``python -m support.noting NOTES run RECIPE ...``

So does one of the crew that has ``QI_NOTES`` in its environment, and what it pulls beside it: ``pulling``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from qi_core import loop
from qi_core.plane.producer import Producer


@frozen
class Seat:
    """A place in a step's batch."""

    epoch: int
    number: int
    """Of the entry that the order has for it."""
    key: str
    """Of the sample that sat in it: another's, where that entry cannot be used."""


def note(path: Path) -> None:
    """From now on each step adds a line to the file, before its update."""
    agree = loop.agree_on_samples

    def noted(strategy: Any, ready: Any, portions: Sequence[Any], step: int) -> Any:
        orders = zip(ready.orders, portions, strict=True)
        seats = [each for o, p in orders for each in zip(o.slots, o.tickets, p.batch.keys, strict=True)]
        line = {"step": step + 1, "seats": [[*ticket, key] for _, ticket, key in sorted(seats)]}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return agree(strategy, ready, portions, step)

    loop.agree_on_samples = noted


def note_pulls(path: Path) -> None:
    """From now on a pull adds ``<`` to the file when it begins and ``>`` when the portion is there."""
    pull, file = Producer.pull, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    def pulled(*given: Any) -> Any:
        os.write(file, b"<")
        answer = pull(*given)
        os.write(file, b">")
        return answer

    Producer.pull = pulled  # type: ignore[method-assign, assignment]


def pulling(path: Path) -> int:
    """How many pulls had begun and weren't over when the process ended."""
    told = path.read_bytes() if path.exists() else b""
    return told.count(b"<") - told.count(b">")


def noted(path: Path) -> dict[int, list[Seat]]:
    """By step, in the order of the batch; a step that was done again had the same samples."""
    found: dict[int, list[Seat]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut off by a kill
            continue
        seats = [Seat(*seat) for seat in record["seats"]]
        assert found.setdefault(record["step"], seats) == seats, f"step {record['step']} was done on other samples"
    return found


if __name__ == "__main__":
    from qi_registry.cli import main

    note(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))

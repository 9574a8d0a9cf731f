"""qi data filter"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_registry.judging import Progress

EVERY = 10.0
"""Seconds between two lines of progress."""


class Filter:
    """Ask every filter of a recipe about every sample: qi data filter RECIPE writes a manifest, a line a sample.

    Nothing is trained and nothing refused: each row has all values and what each filter would say, so that thresholds
    can be chosen (qi data report MANIFEST shows them) before a run. A pass that was stopped goes on where it was.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("recipe", help="a TOML file, a recipe that comes with qi, or the folder of a run")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
        parser.add_argument("-o", "--output", default="manifest.jsonl", metavar="FILE", help="default: %(default)s")
        parser.add_argument("--processes", type=int, default=0, metavar="N", help="default: one a processor")
        parser.add_argument(
            "--samples", type=int, default=0, metavar="N", help="at most; wanted for sources without an end"
        )

    def run(self, args: Namespace) -> int:
        judge(args)
        return 0


def judge(args: Namespace) -> Path:
    """The pass that arguments ask for; where its manifest is."""
    import os

    from qi_registry.judging import judge_all
    from qi_registry.reader import read
    from qi_registry.runs import is_run, read_run_now

    output = Path(args.output)
    for name in ("processes", "samples"):
        if getattr(args, name) < 0:
            raise QiError(f"--{name} {getattr(args, name)}: 0 or more was wanted")
    if not output.parent.is_dir():
        raise QiError(f"--output {output}: there is no folder {output.parent}; make it, or write elsewhere")
    recipe = read_run_now(Path(args.recipe), tuple(args.set)) if is_run(args.recipe) else read(args.recipe, args.set)
    teller = Teller()
    found = judge_all(
        recipe, output, processes=args.processes or os.cpu_count() or 1, most=args.samples, tell=teller.told
    )
    teller.last(found)
    _table(output)
    return output


class Teller:
    """Lines of progress on standard error."""

    def __init__(self) -> None:
        self._start = self._told = time.monotonic()
        self._first: int | None = None

    def told(self, at: Progress) -> None:
        """Every now and then."""
        if self._first is None:
            self._first = at.done
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            self.last(at)

    def last(self, at: Progress) -> None:
        """In any case."""
        rate = (at.done - (self._first or 0)) / max(time.monotonic() - self._start, 1e-3)
        print(
            f"{at.done:,} samples, {at.refused:,} refused by one filter or more, {at.lost:,} that cannot be used; "
            f"{rate:.1f} a second",
            file=sys.stderr,
            flush=True,
        )


def _table(output: Path) -> None:
    """What each filter would remove, one after the other."""
    from qi_registry.judged import of_manifest
    from qi_registry.tables import print_table

    found = of_manifest(output)
    rows = [
        (
            step.label,
            f"{step.came:,}",
            f"{step.removed:,}",
            "; ".join(f"{n:,} {why}" for why, n in step.reasons.items()),
        )
        for step in found.funnel
    ]
    print_table(("filter", "came", "removed", "why"), rows)
    print(f"{output}: {found.kept:,} of {found.samples:,} would be kept; qi data report {output} shows them")

"""qi data lint"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from qi_registry.linting.scan import Looked

OFTEN = 10_000
"""Samples between two lines of progress where no terminal shows it."""


class Lint:
    """Find what costs days later: swapped pictures, missing and cut captions, copies, one shape: qi data lint RECIPE.

    Looks at captions and the headers of pictures, and trains nothing. The exit code is 0 where nothing was found, 1
    where something was, 2 where it could not be looked at. docs/datasets.md tells every rule.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("recipe", help="a TOML file, or a recipe that comes with qi")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="a line of TOML laid on top"
        )
        parser.add_argument(
            "--most", type=int, default=0, metavar="N", help="look at the first N samples of each source (default: all)"
        )
        parser.add_argument("--decode", action="store_true", help="decode every picture, which finds torn files; slow")
        parser.add_argument(
            "--skip", action="append", default=[], metavar="RULE", help="what is meant to be so; repeatable"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object, for programs")

    def run(self, args: Namespace) -> int:
        from attrs import evolve

        from qi_core.errors import QiError
        from qi_registry.linting.scan import scan
        from qi_registry.reader import read

        if args.most < 0:
            raise QiError(f"--most {args.most}: wanted a number of samples, or 0 for all")
        recipe = read(args.recipe, args.sets)
        with _progress() as told:
            looked = scan(recipe, most=args.most, decode=args.decode, told=told)
        looked = [
            evolve(one, findings=tuple(finding for finding in one.findings if finding.rule not in args.skip))
            for one in looked
        ]
        (_as_json if args.json else _as_text)(looked)
        return 1 if any(one.findings for one in looked) else 0


def _as_json(looked: Sequence[Looked]) -> None:
    import json

    from attrs import asdict

    print(json.dumps({"sources": [asdict(one) for one in looked]}, ensure_ascii=True, indent=1))


def _as_text(looked: Sequence[Looked]) -> None:
    """A table on a terminal, lines elsewhere."""
    import sys

    from qi_registry.tables import printable

    for one in looked:
        part = "" if one.whole else ", the first ones; leave --most out to look at all"
        count = sum(finding.count for finding in one.findings)
        verdict = f"{len(one.findings)} kinds of findings, {count} in all" if one.findings else "nothing found"
        print(f"{one.source}: {one.seen} looked at{part}: {verdict}")
        if sys.stdout.isatty():
            _table(one)
            continue
        for finding in one.findings:
            print(f"{one.source}: {finding.rule}: {finding.count} of {finding.of}: {finding.what}; {finding.advice}")
            for example in finding.examples:
                print(f"    {printable(example)}")


def _table(one: Looked) -> None:
    from qi_registry.tables import print_table, printable

    if one.findings:
        print_table(
            ("rule", "how many", "what", "such as", "what to do"),
            [
                (
                    finding.rule,
                    f"{finding.count} of {finding.of}",
                    finding.what,
                    "\n".join(map(printable, finding.examples[:3])),
                    finding.advice,
                )
                for finding in one.findings
            ],
        )


def _progress() -> AbstractContextManager[Callable[[str, int], None]]:
    """On stderr: a bar on a terminal, a line now and then elsewhere."""
    from contextlib import contextmanager

    @contextmanager
    def shown() -> Generator[Callable[[str, int], None]]:
        import sys

        if not sys.stderr.isatty():

            def line(source: str, seen: int) -> None:
                if seen % OFTEN == 0:
                    print(f"{source}: {seen} looked at", file=sys.stderr, flush=True)

            yield line
            return
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}: {task.completed:.0f} looked at"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            tasks = {}

            def bar(source: str, seen: int) -> None:
                if source not in tasks:
                    tasks[source] = progress.add_task(source, total=None)
                progress.update(tasks[source], completed=seen)

            yield bar

    return shown()

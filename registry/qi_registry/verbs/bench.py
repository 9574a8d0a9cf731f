"""qi bench"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from importlib import import_module
from inspect import cleandoc
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from qi_core.command import Command

BENCHMARKS = {"checkpointing": "qi_registry.benchmarks.checkpointing:Checkpointing"}
"""Name -> module:class, a ``qi_core.command.Command`` of its own."""


class Bench:
    """Measure something on this machine: qi bench NAME. Without a name it lists what there is."""

    def configure(self, parser: ArgumentParser) -> None:
        names = parser.add_subparsers(dest="name", metavar="NAME")
        for name in BENCHMARKS:
            benchmark = _benchmark(name)
            doc = cleandoc(benchmark.__doc__ or "")
            own = names.add_parser(
                name,
                help=doc.partition("\n")[0],
                description=doc,
                formatter_class=RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
            benchmark().configure(own)

    def run(self, args: Namespace) -> int:
        from qi_registry.tables import print_table

        if args.name:
            return _benchmark(args.name)().run(args)
        rows = [(name, cleandoc(_benchmark(name).__doc__ or "").partition("\n")[0]) for name in BENCHMARKS]
        print_table(("qi bench", "what it measures"), rows)
        print(
            "Those that compare qi with other software are scripts in a checkout's benchmarks/ (docs/performance.md)."
        )
        return 0


def _benchmark(name: str) -> type[Command]:
    module, own = BENCHMARKS[name].split(":")
    return cast("type[Command]", getattr(import_module(module), own))

"""qi bench"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from qi_registry.verbs import grouped

BENCHMARKS = {"checkpointing": "qi_registry.benchmarks.checkpointing:Checkpointing"}
"""Name -> module:class, a ``qi_core.command.Command`` of its own."""


class Bench:
    """Measure something on this machine: qi bench NAME. Without a name it lists what there is."""

    def configure(self, parser: ArgumentParser) -> None:
        grouped.configure(parser, BENCHMARKS, "name", "NAME")

    def run(self, args: Namespace) -> int:
        from qi_registry.tables import print_table

        if args.name:
            return grouped.found(BENCHMARKS, args.name)().run(args)
        rows = [(name, grouped.first_line(grouped.found(BENCHMARKS, name))) for name in BENCHMARKS]
        print_table(("qi bench", "what it measures"), rows)
        print(
            "Those that compare qi with other software are scripts in a checkout's benchmarks/ (docs/performance.md)."
        )
        return 0

"""qi list"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from qi_registry.kinds import KINDS


class List:
    """Show what a recipe can name: every component by kind, and who gives it."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", nargs="?", choices=list(KINDS), help="only this kind")

    def run(self, args: Namespace) -> int:
        from qi_core.errors import QiError
        from qi_registry.describe import first_line
        from qi_registry.registry import installed
        from qi_registry.tables import print_table

        rows: list[tuple[str, ...]] = []
        for kind in KINDS.values():
            if args.kind not in (None, kind.name):
                continue
            for name in installed().names(kind):
                try:
                    entry = installed().find(kind, name)
                    rows.append(
                        (
                            kind.name,
                            name,
                            first_line(entry.component),
                            f"{entry.plugin.distribution} {entry.plugin.version}",
                        )
                    )
                except QiError as error:
                    rows.append((kind.name, name, f"cannot be used: {error}", ""))
        print_table(("kind", "name", "what it is", "from"), rows)
        return 0

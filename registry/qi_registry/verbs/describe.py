"""qi describe"""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace
from typing import Any


class Describe:
    """Explain a component or a section of the recipe: its keys, their types, defaults and meaning."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", help="a kind of component (sampler, ...) or a section (train, ...)")
        parser.add_argument("name", nargs="?", help="the component's name; all of the kind if left out")

    def run(self, args: Namespace) -> int:
        from qi_core.errors import QiError
        from qi_registry.kinds import KINDS
        from qi_registry.mistakes import did_you_mean
        from qi_registry.recipe import SETTINGS
        from qi_registry.registry import installed

        if args.kind in SETTINGS:
            if args.name is not None:
                raise QiError(f"{args.kind} {args.name}: {args.kind} is a section without names; leave out {args.name}")
            _print(f"[{args.kind}]", SETTINGS[args.kind])
            return 0
        if args.kind not in KINDS:
            known = [*KINDS, *SETTINGS]
            raise QiError(
                f"{args.kind}: no kind or section{did_you_mean(args.kind, known)} (known: {', '.join(known)})"
            )
        kind = KINDS[args.kind]
        names = [args.name] if args.name else installed().names(kind)
        for name in names:
            entry = installed().find(kind, name)
            _print(f"{kind.name} {name}, from {entry.plugin.owner}", entry.component)
        if not names:
            print(f"{kind.name}: none is installed")
        return 0


def _print(title: str, cls: type[Any]) -> None:
    from qi_registry.describe import fields
    from qi_registry.tables import print_table

    print(title)
    print(inspect.cleandoc(cls.__doc__ or ""))
    rows = [(field.name, field.wanted, field.otherwise, field.doc) for field in fields(cls)]
    if rows:
        print_table(("key", "type", "default", "meaning"), rows)
    else:
        print("It has no settings.")

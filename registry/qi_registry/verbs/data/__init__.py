"""qi data"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from importlib import import_module
from inspect import cleandoc
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from qi_core.command import Command

VERBS = {
    "annotate": "qi_registry.verbs.data.annotate:Annotate",
    "balance": "qi_registry.verbs.data.balance:Balance",
    "cache": "qi_registry.verbs.data.cache:Cache",
    "duplicates": "qi_registry.verbs.data.duplicates:Duplicates",
    "filter": "qi_registry.verbs.data.filter:Filter",
    "lint": "qi_registry.verbs.data.lint:Lint",
    "report": "qi_registry.verbs.data.report:Report",
}
"""Name -> module:class, a ``qi_core.command.Command`` of its own; it imports what it needs in ``run``."""


class Data:
    """Look at data, judge it and annotate it: qi data VERB. Without a verb it lists what there is."""

    def configure(self, parser: ArgumentParser) -> None:
        names = parser.add_subparsers(dest="data_verb", metavar="VERB")
        for name in VERBS:
            verb = _verb(name)
            doc = cleandoc(verb.__doc__ or "")
            own = names.add_parser(
                name,
                help=doc.partition("\n")[0].replace("%", "%%"),
                description=doc,
                formatter_class=RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
            verb().configure(own)

    def run(self, args: Namespace) -> int:
        from qi_registry.tables import print_table

        if args.data_verb:
            return _verb(args.data_verb)().run(args)
        print_table(("qi data", "what it does"), [(name, _first_line(name)) for name in VERBS])
        return 0


def _verb(name: str) -> type[Command]:
    module, own = VERBS[name].split(":")
    return cast("type[Command]", getattr(import_module(module), own))


def _first_line(name: str) -> str:
    return cleandoc(_verb(name).__doc__ or "").partition("\n")[0]

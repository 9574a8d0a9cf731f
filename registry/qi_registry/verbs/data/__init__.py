"""qi data"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from qi_registry.verbs import grouped

VERBS = {
    "annotate": "qi_registry.verbs.data.annotate:Annotate",
    "balance": "qi_registry.verbs.data.balance:Balance",
    "cache": "qi_registry.verbs.data.cache:Cache",
    "duplicates": "qi_registry.verbs.data.duplicates:Duplicates",
    "filter": "qi_registry.verbs.data.filter:Filter",
    "lint": "qi_registry.verbs.data.lint:Lint",
    "report": "qi_registry.verbs.data.report:Report",
    "resample": "qi_registry.verbs.data.resample:Resample",
}
"""Name -> module:class, a ``qi_core.command.Command`` of its own; it imports what it needs in ``run``."""


class Data:
    """Look at data, judge it and annotate it: qi data VERB. Without a verb it lists what there is."""

    def configure(self, parser: ArgumentParser) -> None:
        grouped.configure(parser, VERBS, "data_verb", "VERB")

    def run(self, args: Namespace) -> int:
        from qi_registry.tables import print_table

        if args.data_verb:
            return grouped.found(VERBS, args.data_verb)().run(args)
        rows = [(name, grouped.first_line(grouped.found(VERBS, name))) for name in VERBS]
        print_table(("qi data", "what it does"), rows)
        return 0

"""qi data report"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


class Report:
    """Show what filters removed and kept: qi data report RUN writes one HTML page."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of a run, or a manifest that qi data filter wrote")
        parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default: %(default)s")

    def run(self, args: Namespace) -> int:
        raise NotImplementedError

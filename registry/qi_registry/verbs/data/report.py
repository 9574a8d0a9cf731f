"""qi data report"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


class Report:
    """Show what filters removed and kept: qi data report RUN, or MANIFEST, writes one HTML page.

    The funnel, a histogram of every measurement with its threshold, pictures that were kept and that were removed, and
    what the source could not use. The page needs nothing else and asks nobody for anything.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of a run, or a manifest that qi data filter wrote")
        parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default: %(default)s")

    def run(self, args: Namespace) -> int:
        from qi_core.files import write_whole
        from qi_registry.data_report import page
        from qi_registry.judged import of_manifest, of_run

        path, output = Path(args.run), Path(args.output)
        found = of_manifest(path) if path.is_file() else of_run(path)
        write_whole(output, page(found).encode("utf-8", "backslashreplace"))
        if not found.samples and not found.skipped:
            print(f"{path}: nothing was measured there; the recipe has no [data.filters], or no sample was drawn yet")
        print(f"{output}: {found.kept:,} of {found.samples:,} samples kept by {len(found.funnel)} filters")
        return 0

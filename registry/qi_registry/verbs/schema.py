"""qi schema"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


class Schema:
    """Write the JSON schema of recipes, for editors: names, keys, types and their documentation."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("-o", "--output", help="the file to write; the screen if left out")
        parser.add_argument("--only", metavar="DISTRIBUTION", help="only the plugins of this distribution (qi: ours)")

    def run(self, args: Namespace) -> int:
        import json
        from pathlib import Path

        from qi_registry import plugins
        from qi_registry.describe import schema
        from qi_registry.registry import Registry

        text = json.dumps(schema(Registry(plugins.load(only=args.only))), indent=1, ensure_ascii=False) + "\n"
        if args.output:
            Path(args.output).write_text(text, encoding="utf-8")
        else:
            print(text, end="")
        return 0

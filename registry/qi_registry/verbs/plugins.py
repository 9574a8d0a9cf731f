"""qi plugins"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace


class Plugins:
    """Show the plugins that were found, what each gives, and which are broken and why."""

    def configure(self, parser: ArgumentParser) -> None:
        pass

    def run(self, args: Namespace) -> int:
        from qi_registry import commands
        from qi_registry.kinds import COMMANDS_HOOK, KINDS
        from qi_registry.registry import installed
        from qi_registry.tables import print_table

        registry = installed()
        plugins = registry.plugins
        given = {plugin: list[str]() for plugin in plugins.found}
        for kind in KINDS.values():
            for offer in plugins.offers(kind.hook):
                given[offer.plugin].append(f"{kind.name} {offer.name}")
        for offer in plugins.offers(COMMANDS_HOOK):
            given[offer.plugin].append(f"verb {offer.name}")
        broken = {plugin: list[str]() for plugin in plugins.found}
        for plugin, why in plugins.broken():
            broken[plugin].append(why)
        rows = [
            (
                plugin.name,
                f"{plugin.distribution} {plugin.version}",
                ", ".join(given[plugin]) or "nothing",
                f"broken: {'; '.join(broken[plugin])}" if broken[plugin] else "good",
            )
            for plugin in plugins.found
        ]
        print_table(("plugin", "from", "gives", "state"), rows)
        for problem in (*registry.problems(), *commands.problems(plugins)):
            print(problem)
        return 0

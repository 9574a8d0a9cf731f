"""The command ``qi``: a verb, its arguments, and one clear line where something is wrong."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from qi_core import lastword
from qi_core.command import Command
from qi_core.errors import QiError

USER_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
LEAVE = 10.0
"""Seconds that a rank may take to end once it has told why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; the exit code: 2 for a mistake of the user's, told without a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    # OpenMP's threads spin while they wait for each other, by default so long that on a busy machine they starve what
    # they wait for: a step of the tiny model takes 0.064 s on two idle cores and then 0.27 to 2.5 s; spinning less,
    # 0.067 and 0.15 s; not at all, 0.14 and 0.17 s. It counts only if it is said before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "50000")
    try:
        code = _answer(words)
        sys.stdout.flush()  # here, where a closed pipe is still ours to handle
        return code
    except QiError as error:
        return _ended(str(error), error.code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (qi list | head). Python flushes stdout once more when it exits: let it go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        return _ended(f"{error.filename}: {error.strerror}", USER_ERROR)


def _ended(text: str, code: int) -> int:
    """Tell why, and see that the process ends."""
    lastword.tell(text, lastword.MISTAKE if code == USER_ERROR else lastword.LOST)
    team = sys.modules.get("qi_core.team")  # who has not imported it is no rank
    if team and team.joined():
        # Threads of a rank may still wait for others, which are gone; Python would wait for them at its end.
        import faulthandler

        faulthandler.dump_traceback_later(LEAVE, exit=True, file=os.open(os.devnull, os.O_WRONLY))
    return code


def _answer(words: list[str]) -> int:
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if verb in ("-V", "--version"):
        print(f"qi {_version()}")
        return 0
    command = _command(verb)
    parser = ArgumentParser(
        prog=f"qi {verb}", description=_doc(command), formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made = command()
    made.configure(parser)
    return made.run(parser.parse_args(words[1:]))


def _command(verb: str) -> type[Command]:
    from qi_registry import commands

    if verb in commands.BUILT_IN:
        return commands.built_in(verb)
    from qi_registry.registry import installed

    return commands.find(verb, installed().plugins)


def _help() -> str:
    from qi_registry import commands
    from qi_registry.kinds import COMMANDS_HOOK
    from qi_registry.registry import installed

    plugins = installed().plugins
    ours = {verb: commands.built_in(verb) for verb in commands.BUILT_IN}
    others = commands.of_plugins(plugins)
    width = max(len(verb) for verb in (*ours, *others))
    lines = ["usage: qi VERB ...", "", "Training of image models, one recipe a run.", ""]
    lines += [f"  {verb:<{width}}  {_first_line(command)}" for verb, command in ours.items()]
    if others:
        lines += ["", "from plugins:"]
        lines += [f"  {verb:<{width}}  {_first_line(command)}" for verb, command in others.items()]
    lines += ["", "'qi VERB --help' explains a verb; 'qi list' shows what a recipe can name."]
    if broken := plugins.broken(COMMANDS_HOOK):
        names = ", ".join(plugin.name for plugin, _ in broken)
        lines.append(f"Broken plugins: {names}; 'qi plugins' tells why.")
    return "\n".join(lines) + "\n"


def _doc(command: type[Command]) -> str:
    from textwrap import dedent

    first, _, rest = (command.__doc__ or "").strip().partition("\n")
    return f"{first}\n{dedent(rest)}".strip()


def _first_line(command: type[Command]) -> str:
    return _doc(command).partition("\n")[0]


def _version() -> str:
    from importlib.metadata import version

    return version("qi")


if __name__ == "__main__":
    sys.exit(main())

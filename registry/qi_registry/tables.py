"""Tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """As wide as the screen; into a pipe or a file, wide enough that nothing is cut."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as text: brackets are no markup here
    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    if not console.is_terminal:
        console = Console(width=Console(width=10_000).measure(table).maximum)
    console.print(table)


def printable(text: str) -> str:
    """Names of files may hold anything, a terminal's commands among it."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)

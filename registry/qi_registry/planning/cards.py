"""What cards can do, from the makers' data sheets. The one table of it: benchmarks take their peaks from here."""

from __future__ import annotations

from typing import NamedTuple

from qi_core.errors import QiError

GB, GIB = 10**9, 2**30


class Card(NamedTuple):
    """One GPU, and how it reaches others."""

    name: str
    peak: float
    """Dense bfloat16 TFLOP/s with float32 sums (half of what is printed "with sparsity")."""
    memory: float
    """GiB that a process can have."""
    hbm: float
    """Bandwidth of its own memory, TB/s."""
    link: float
    """To other cards of its machine, GB/s each way: NVLink, or else PCIe."""
    net: float
    """To other machines, GB/s each way: one adapter a card (400 Gbit/s beside Hopper, 200 beside Ampere), or a share of
    one."""


# A name stands before those that it begins with.
CARDS = tuple(
    Card(*row)
    for row in (
        #  name           peak    GiB    TB/s   link   net
        ("B200",          2250.0, 178.0, 8.0,   900.0, 50.0),
        ("GH200",         989.0,  94.0,  4.0,   450.0, 50.0),
        ("H200 NVL",      835.0,  139.0, 4.8,   450.0, 50.0),
        ("H200",          989.0,  139.0, 4.8,   450.0, 50.0),
        ("H100 PCIe",     756.0,  79.0,  2.0,   63.0,  25.0),
        ("H100 NVL",      835.0,  93.0,  3.9,   300.0, 25.0),
        ("H100",          989.0,  79.0,  3.35,  450.0, 50.0),
        ("H800",          989.0,  79.0,  3.35,  200.0, 50.0),
        ("H20",           148.0,  95.0,  4.0,   450.0, 50.0),
        ("A100",          312.0,  79.0,  2.04,  300.0, 25.0),
        ("A800",          312.0,  79.0,  2.04,  200.0, 25.0),
        ("L40S",          362.0,  44.0,  0.864, 31.5,  12.5),
        ("L40",           181.0,  44.0,  0.864, 31.5,  12.5),
        ("L4",            121.0,  22.0,  0.3,   31.5,  12.5),
        ("A10G",          70.0,   22.0,  0.6,   31.5,  12.5),
        ("A10",           125.0,  22.0,  0.6,   31.5,  12.5),
        ("RTX 6000 Ada",  364.0,  47.0,  0.96,  31.5,  12.5),
        ("RTX A6000",     155.0,  47.0,  0.768, 31.5,  12.5),
        ("RTX 5090",      209.5,  31.0,  1.79,  63.0,  12.5),
        ("RTX 4090",      165.2,  23.5,  1.01,  31.5,  12.5),
        ("RTX 3090",      71.0,   23.5,  0.936, 31.5,  12.5),
    )
)  # fmt: skip


def peak_of(name: str) -> float | None:
    """Dense bfloat16 peak of a card by the name that its driver gives, TFLOP/s; None for one that is not known."""
    return next((card.peak for card in CARDS if card.name in name), None)


def find_card(name: str) -> Card:
    """By name, whatever its case, spaces and hyphens. Raises QiError with what was probably meant."""
    from qi_registry.mistakes import did_you_mean

    wanted = _bare(name)
    for card in CARDS:
        if _bare(card.name) in (wanted, f"rtx{wanted}"):
            return card
    known = [card.name for card in CARDS]
    raise QiError(f"--gpu: no card called {name!r} is known{did_you_mean(name, known)} (known: {', '.join(known)})")


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())

"""What is rare gets a share, by category or by words: of what is frequent some is left out, or what is rare comes more
often.

Who stays follows from a sample's key and the seed alone: nothing hangs on the order of the samples, and a higher limit
keeps whoever a lower one kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from qi_core.captions import units


def words_of(caption: str) -> frozenset[str]:
    """The words of a caption, small; characters of scripts without spaces are words."""
    return frozenset(unit.casefold() for unit in units(caption))


def counts_of(samples: Iterable[Iterable[str]]) -> Counter[str]:
    """In how many samples each word, or category, comes."""
    counts: Counter[str] = Counter()
    for words in samples:
        counts.update(words)
    return counts


def chance(words: Iterable[str], counts: Counter[str], most: int) -> float:
    """How likely a sample stays, if a word should come about ``most`` times: t / count of its rarest word, 1 at most
    (Xu et al. 2023, "Demystifying CLIP Data", algorithm 1, with the sample's best chance in the place of several
    draws). A sample without words stays."""
    return max((min(1.0, most / counts[word]) for word in words), default=1.0)


def dropped(keys: Sequence[str], samples: Sequence[frozenset[str]], most: int, seed: int) -> list[int]:
    """Numbers of the samples that are left out."""
    counts = counts_of(samples)
    return [
        number
        for number, (key, words) in enumerate(zip(keys, samples, strict=True))
        if rolled(seed, key) >= chance(words, counts, most)
    ]


def beyond(keys: Sequence[str], categories: Sequence[str], most: int, seed: int) -> list[int]:
    """Numbers of the samples that are left out so that no category has more than ``most``: exactly so many stay."""
    groups: dict[str, list[int]] = {}
    for number, category in enumerate(categories):
        groups.setdefault(category, []).append(number)
    out: list[int] = []
    for own in groups.values():
        out += sorted(own, key=lambda number: (rolled(seed, keys[number]), keys[number]))[most:]
    return sorted(out)


def factors(
    samples: Sequence[frozenset[str]],
    about: int,
    *,
    exponent: float = 0.5,
    repeats: float = 4.0,
    fewest: float = 1.0,
    least: int = 1,
) -> list[float]:
    """How often each sample should come in an epoch: its rarest word's (about / count) ** exponent.

    With exponent 1/2 and fewest 1 this is repeat factor sampling (Gupta, Dollar & Girshick 2019, "LVIS", section 5.1);
    with exponent 1 and repeats 1 what Xu et al. (see ``chance``) keep, as a share. At least ``fewest``, and at most
    ``repeats``, so that a handful is not learned by heart. Words in fewer than ``least`` samples are passed over.
    Samples without words come once.
    """
    counts = counts_of(samples)
    found: list[float] = []
    for words in samples:
        rarest = min((count for word in words if (count := counts[word]) >= least), default=0)
        # Rounded, since the last bits of a power differ between machines.
        wanted = round((about / rarest) ** exponent, 3) if rarest else 1.0
        found.append(min(max(wanted, fewest), repeats))
    return found


def rolled(seed: int, key: str) -> float:
    """In [0, 1), of a sample."""
    name = f"{seed}/balance/{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little") / 2**64

"""What is frequent is thinned, what is rare is kept whole, and who stays hangs on key and seed alone."""

from __future__ import annotations

import pytest

from qi_core.balancing import beyond, chance, counts_of, dropped, factors, words_of

KEYS = [f"key-{number}" for number in range(2000)]
SAMPLES = [
    words_of("a cat") if number % 100 else words_of(f"a cat with an okapi {'and a dog' if number % 200 else ''}")
    for number in range(2000)
]


def test_the_long_tail_stays_whole_and_the_head_is_thinned() -> None:
    out = set(dropped(KEYS, SAMPLES, 100, seed=0))
    after = counts_of(words for number, words in enumerate(SAMPLES) if number not in out)
    assert after["okapi"] == 20
    assert after["dog"] == 10
    assert after["cat"] == pytest.approx(20 + 1980 * 100 / 2000, abs=35)
    assert chance([], counts_of(SAMPLES), 1) == 1.0


def test_who_stays_hangs_on_nothing_else() -> None:
    out = {KEYS[number] for number in dropped(KEYS, SAMPLES, 100, seed=0)}
    turned = {KEYS[::-1][number] for number in dropped(KEYS[::-1], SAMPLES[::-1], 100, seed=0)}
    assert turned == out
    assert {KEYS[number] for number in dropped(KEYS, SAMPLES, 300, seed=0)} < out, "a higher limit keeps more, the same"
    assert {KEYS[number] for number in dropped(KEYS, SAMPLES, 100, seed=1)} != out


def test_no_category_has_more_than_so_many() -> None:
    categories = ["people" if number % 10 else "design" for number in range(2000)]
    out = beyond(KEYS, categories, 250, seed=0)
    left = counts_of([name] for number, name in enumerate(categories) if number not in set(out))
    assert left == {"people": 250, "design": 200}
    assert set(beyond(KEYS, categories, 300, seed=0)) < set(out)


def test_the_tail_is_lifted_by_its_rarest_word_within_a_cap() -> None:
    """2000 samples say cat, 20 okapi too, and 10 of those dog; of these words a sample's rarest counts."""
    found = factors(SAMPLES, 80, repeats=2.5)
    assert (found[1], found[100], found[200]) == (1.0, 2.5, 2.0), "(80 / 10) ** 0.5 is capped"
    assert factors(SAMPLES, 80, repeats=4)[100] == 2.828
    assert factors(SAMPLES, 80, repeats=4, least=11)[100] == 2.0, "what is too rare to be learned lifts nobody"
    assert factors(SAMPLES, 80, fewest=0.1)[1] == 0.2, "and the head is thinned if that is asked for"
    assert factors([frozenset()], 80) == [1.0]
    xu = factors(SAMPLES, 100, exponent=1.0, fewest=0.001, repeats=1.0)
    counts = counts_of(SAMPLES)
    assert xu == [chance(words, counts, 100) for words in SAMPLES]

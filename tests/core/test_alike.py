"""What is alike is made once, while somebody holds it."""

from __future__ import annotations

from qi_core.alike import Alike


class Dear:
    pass


def test_it_is_made_once_for_those_who_hold_it() -> None:
    alike = Alike[Dear]()
    first = alike.get(("a", 1), Dear)
    assert alike.get(("a", 1), Dear) is first
    assert alike.get(("a", 2), Dear) is not first


def test_it_is_let_go_of_with_the_last_who_held_it() -> None:
    alike = Alike[Dear]()
    made = list[int]()

    def make() -> Dear:
        made.append(1)
        return Dear()

    for _ in range(2):
        alike.get("a", make)
    assert len(made) == 2

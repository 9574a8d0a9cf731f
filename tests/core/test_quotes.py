"""What a prompt asks to be written."""

from __future__ import annotations

import pytest
import torch

from qi_core import Candidate
from qi_core.quotes import quoted, wanted_text


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ('the word "HELLO" in red', ("HELLO",)),
        ("黑底白字“中国人”", ("中国人",)),
        ("招牌上写着「营业中」和『欢迎』", ("营业中", "欢迎")),
        ('a sign "OPEN" over a sign “closed”', ("OPEN", "closed")),
        ("a dog's bowl without words", ()),
        ('an empty sign "" and a mark " left open', ()),
        ('nothing but "" and “ ”', ()),
        ('half a "quotation', ()),
    ],
)
def test_quotations_are_found_in_order(prompt: str, found: tuple[str, ...]) -> None:
    assert quoted(prompt) == found


def test_what_is_told_beside_the_prompt_goes_before_what_it_quotes() -> None:
    def wanted(text: str, prompt: str) -> str:
        image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        return wanted_text(Candidate(key="k", group="g", prompt=prompt, image=image, text=text))

    assert wanted("EXIT", 'a sign "OPEN"') == "EXIT"
    assert wanted("", 'signs "OPEN" and "NOW"') == "OPEN NOW"
    assert wanted("", "a sign") == ""

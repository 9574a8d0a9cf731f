"""Filters of captions."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from qi_core import Place, QiError, Sample
from qi_core.testing import check_component, check_filter
from qi_plugins.filter_caption.component import InvalidCaption, TokenLength

PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())
SAMPLE = Sample(key="one", prompt="a red cat, 一只猫", image=torch.zeros(3, 8, 8, dtype=torch.uint8))


def value(component: Any, prompt: str) -> float:
    found: float = component.build(PLACE).measure(evolve(SAMPLE, prompt=prompt))
    return found


def verdict(component: Any, prompt: str) -> str:
    live = component.build(PLACE)
    found: str = live.refuses(live.measure(evolve(SAMPLE, prompt=prompt)))
    return found


@pytest.mark.parametrize("component", [TokenLength, InvalidCaption])
def test_contracts(component: type[Any]) -> None:
    check_component(component)
    check_filter(component())


def test_length_in_words_and_characters() -> None:
    assert value(TokenLength(), SAMPLE.prompt) == 6
    assert value(TokenLength(unit="characters"), SAMPLE.prompt) == 14
    assert verdict(TokenLength(least=3), "a cat") == "caption too short"
    assert verdict(TokenLength(most=3), "a very red cat") == "caption too long"
    assert verdict(TokenLength(), "") == ""


def test_length_in_tokens_of_the_model_that_will_read_it(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[]).save_pretrained(tmp_path)
    component = TokenLength(unit="tokens", path=tmp_path, most=4)
    assert value(component, "a red cat") == 7, "this tokenizer spells"
    assert verdict(component, "a red cat") == "caption too long"
    check_filter(component)


def test_a_tokenizer_goes_with_tokens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="goes with the folder of a tokenizer"):
        TokenLength(unit="tokens")
    with pytest.raises(ValueError, match="goes with the folder of a tokenizer"):
        TokenLength(path=tmp_path)
    with pytest.raises(QiError, match="there is no folder"):
        TokenLength(unit="tokens", path=tmp_path / "nowhere").build(PLACE)
    with pytest.raises(QiError, match="wanted a tokenizer in transformers' layout"):
        TokenLength(unit="tokens", path=tmp_path).build(PLACE)


def test_invalid_captions_are_refused_by_what_they_are() -> None:
    assert verdict(InvalidCaption(), "Sorry, I cannot describe it.") == "refusal"
    assert verdict(InvalidCaption(), "抱歉，我无法描述") == "refusal"
    assert verdict(InvalidCaption(), "") == "empty"
    assert verdict(InvalidCaption(), "a red cat") == ""
    assert verdict(InvalidCaption(faults=("refusal",)), "") == ""
    assert value(InvalidCaption(faults=("refusal",)), "IMG_20.jpg") == 4, "measured all the same"
    with pytest.raises(ValueError, match="'faults' has 'rude'; wanted of empty, refusal"):
        InvalidCaption(faults=("rude",))
    assert InvalidCaption().faults == __import__("qi_core.captions", fromlist=["FAULTS"]).FAULTS

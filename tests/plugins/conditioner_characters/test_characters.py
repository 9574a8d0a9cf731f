"""Conditioner ``characters``: which token stands for what, and that it is the same vector everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qi_core import Place, QiError
from qi_plugins.conditioner_characters.component import Characters
from qi_plugins.conditioner_characters.embedding import CharacterTokens
from qi_plugins.conditioner_characters.tokens import tokenize


@pytest.fixture
def conditioner(tmp_path: Path) -> CharacterTokens:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    return Characters(width=256).build(place)


def names(prompt: str) -> list[str]:
    return [token.name for token in tokenize(prompt)]


def test_quoted_characters_and_plain_words() -> None:
    wanted = ["word:the", "word:word", "character:H", "character:i", "word:in", "word:red", "word:!"]
    assert names('The word "Hi" in RED!') == wanted


def test_chinese_quotes_and_words() -> None:
    assert names("文字“你好”") == ["word:文", "word:字", "character:你", "character:好"]


def test_quoted_text_keeps_spaces_and_order() -> None:
    assert [(t.name, t.place) for t in tokenize('"a b"')] == [
        ("character:a", 0),
        ("character: ", 1),
        ("character:b", 2),
    ]


def test_a_quote_left_open_is_punctuation() -> None:
    assert names('say "no') == ["word:say", 'word:"', "word:no"]


@pytest.mark.parametrize("prompt", ["", " ", '""'])
def test_a_prompt_without_content_is_one_empty_token(prompt: str) -> None:
    assert names(prompt) == ["empty"]


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert names('"e\u0301"') == names('"\u00e9"')


def test_a_batch_is_its_prompts_end_to_end(conditioner: CharacterTokens) -> None:
    prompts = ['the word "AB"', "", "文字“好”"]
    batch = conditioner.encode(prompts)
    assert batch.lengths == (4, 1, 3)
    assert torch.equal(batch.text, torch.cat([conditioner.encode([p]).text for p in prompts]))


def test_vectors_are_of_unit_variance_and_nearly_orthogonal(conditioner: CharacterTokens) -> None:
    text = conditioner.encode(['"ABCDEFGHIJKLMNOPQRSTUVWXYZ" red green a b c']).text
    assert text.pow(2).mean(dim=1).allclose(torch.ones(len(text)))
    cosines = text @ text.T / text.shape[1] - torch.eye(len(text))
    assert cosines.abs().max() < 0.35


def test_vectors_do_not_depend_on_the_hash_seed_or_the_machine() -> None:
    code = (
        "import hashlib; from qi_plugins.conditioner_characters.embedding import CharacterTokens as C;"
        "print(hashlib.sha256(C(width=100, positions=True).encode(['say “好A”']).text.numpy().tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = CharacterTokens(width=100, positions=True).encode(["say “好A”"]).text.numpy().tobytes()
    assert there.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_the_vectors_of_checkpoints_already_trained_never_change() -> None:
    """A changed hash would silently break every trained checkpoint."""
    assert CharacterTokens(width=8).encode(['"A" red']).text.tolist() == KEPT


KEPT = [[-1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0]]


def test_positions_tell_equal_characters_apart() -> None:
    plain = CharacterTokens(width=256).encode(['"AA"']).text
    placed = CharacterTokens(width=256, positions=True).encode(['"AA"']).text
    assert torch.equal(plain[0], plain[1])
    assert not torch.equal(placed[0], placed[1])
    assert placed.pow(2).mean() == pytest.approx(1.0, abs=0.2)


def test_reference_pictures_are_refused(conditioner: CharacterTokens) -> None:
    with pytest.raises(QiError, match="text alone"):
        conditioner.encode(["make it red"], [[torch.zeros(3, 8, 8, dtype=torch.uint8)]])
    assert conditioner.encode(["a", "b"], [[], []]).lengths == (1, 1)


def test_the_settings_need_no_torch() -> None:
    code = "import sys, qi_plugins.conditioner_characters.component; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""What is no caption is known by rules, and what may be one passes."""

from __future__ import annotations

import time

import pytest

from qi_core.captions import fault, repeats, units

BAD = {
    "empty": ["", "  \n", "...", "！！"],
    "refusal": [
        "Sorry, I cannot help with that.",
        "I'm sorry, but I can't assist with identifying people.",
        "I am unable to describe this image.",
        "Unfortunately, there was an error. I cannot view it.",
        "As an AI language model, I don't see the picture",
        "The image was not provided",
        '"Sorry, I cannot do that."',
        "Please upload an image so that I can describe it.",
        "抱歉，我无法描述这张图片。",
        "我无法看到图片内容",
        "作为一个人工智能，我不能查看图片",
    ],
    "repetition": [
        "a cat " * 10,
        "the dog sits on the green grass near. " * 6,
        "一只猫一只猫一只猫一只猫一只猫一只猫",
        "red " * 12,
    ],
    "file name": ["IMG_2034.jpg", "DSC00123", "photos/a/b.png", "20190101_120000", "d41d8cd98f00b204e9800998ecf8427e"],
    "markup or address": ["<p>a cat</p>", "https://example.com/a", "a cat &nbsp; dog", '{"caption": "x"}'],
    "talks to its reader": [
        "Sure! Here is a caption for the image: a cat",
        "a cat. Let me know if you need more",
        "好的，以下是图片的描述：一只猫",
    ],
}
GOOD = [
    "a red cat",
    'A woman apologizes: the sign reads "Sorry, we are closed"',
    '"Sorry, we\'re closed" sign on a door',
    '"I can\'t believe it" written on a tub',
    "A man who cannot swim stands at the pool",
    "Poster reading: Hello, I can't wait",
    "招牌上写着“对不起，今日休息”",
    "“我不能没有你”的海报",
    "We are the champions, album cover",
    "A black-and-white photo of a sorry-looking dog",
    "no, no, no, no, no written in neon",
    "ha ha ha ha ha, said the clown",
    "A row of houses, a row of trees, a row of cars",
    "The picture is found in a museum",
    "Here is a dog in the park",
    "Close-up of (a) flower; 3.jpg artefacts visible",
    "An old book whose title is <Faust>",
    "She works as an assistant",
    "一只红色的猫坐在窗台上",
]


@pytest.mark.parametrize(("wanted", "caption"), [(wanted, caption) for wanted, some in BAD.items() for caption in some])
def test_what_is_no_caption(wanted: str, caption: str) -> None:
    assert fault(caption) == wanted


@pytest.mark.parametrize("caption", GOOD)
def test_what_may_be_one(caption: str) -> None:
    assert fault(caption) == ""


def test_units_are_words_and_characters_of_scripts_without_spaces() -> None:
    assert units("A red cat, 一只猫!") == ["A", "red", "cat", "一", "只", "猫"]
    assert not repeats("very very very very good")


def test_digits_behind_the_name_of_a_picture_are_not_cut_up_in_every_way() -> None:
    start = time.process_time()
    assert fault("p" + "1" * 26 + "x") == ""
    assert fault("IMG 20240501-112233 4") == "file name"
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("piece", ["a ", "1 ", "a/", "_", "sorry ", "我", "<a", "{", "i am ", "no image ", "-", " "])
def test_hostile_captions_cost_no_time(piece: str) -> None:
    start = time.process_time()
    fault(piece * (16_384 // len(piece)) + "x")
    assert time.process_time() - start < 1.0

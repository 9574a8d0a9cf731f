"""Which answers become annotations, and what is said to those that don't."""

from __future__ import annotations

import pytest

from qi_core.annotation.answer import Refused, parsed
from qi_core.annotation.prompts import Language, shipped
from qi_core.annotation.rules import Rules
from qi_core.chat import Reply
from support.seer import annotation

GOOD = 'A grey cat sleeps on a red sofa beneath a sign that says "OPEN LATE", lit from the left.'
CHINESE = "一只灰猫在红色沙发上睡觉，上方的招牌写着“深夜营业”，光线从左侧照来。"


def judged(text: str, language: Language = "en", **rules: int) -> str:
    """Why an answer won't do; empty if it will."""
    try:
        Rules(language=language, **rules).check(parsed(Reply(text=text)))  # type: ignore[arg-type]
    except Refused as error:
        return error.reason
    return ""


def test_an_annotation_is_what_stands_in_the_one_json_object() -> None:
    told = annotation(GOOD, **{"Watermark List": [" stock.example "], "Abnormal Element": "Yes"})
    for text in (told, f"```json\n{told}\n```", f"A cat {{grey}}.\n\n{told}\n"):
        found = parsed(Reply(text=text))
        assert (found.caption, found.type, found.style) == (GOOD, "photograph", "realistic")
        assert (found.watermarks, found.abnormal) == (("stock.example",), True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "an empty answer"),
        ("I'm sorry, but I cannot describe this image.", "a refusal"),
        ("抱歉，我无法描述这张图片。", "a refusal"),
        (GOOD, "no JSON object in the answer"),
        (annotation(GOOD)[:-30], "no JSON object in the answer"),
        (annotation(GOOD) * 2, "several JSON objects in the answer"),
        (annotation(GOOD, Mood="calm"), "other keys or types in the JSON"),
        (annotation(GOOD).replace('"Image Style"', '"Style"'), "other keys or types in the JSON"),
        (annotation(GOOD, **{"Watermark List": "none"}), "other keys or types in the JSON"),
        (annotation(GOOD, **{"Abnormal Element": False}), "other keys or types in the JSON"),
        (annotation(GOOD, **{"Abnormal Element": "maybe"}), "other keys or types in the JSON"),
        (annotation(GOOD).replace('"Image Type"', '"Caption": "a", "Image Type"'), "other keys or types in the JSON"),
        ("{" * 3000, "an empty answer"),
        ("a " * 40_000, "an answer too long"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_refused(text: str, why: str) -> None:
    assert judged(text) == why


def test_an_answer_that_was_cut_off_is_refused_even_if_it_reads_whole() -> None:
    with pytest.raises(Refused, match="cut off"):
        parsed(Reply(text=annotation(GOOD), cut_off=True))


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        (GOOD, ""),
        ("...", "the caption is a placeholder"),
        ("<caption>", "the caption is a placeholder"),
        ("A cat.", "the caption is too short"),
        ("A cat and a dog " + "and a bird that sings of spring " * 3 + "on a wire", ""),
        ("a cat sits, " * 30, "the caption is no description: repetition"),
        (
            "I'm sorry, but I can't help with describing what is in this picture here.",
            "the caption is no description: refusal",
        ),
        (f"- {GOOD}", "the caption is not plain text"),
        (f"{GOOD}\n{GOOD}", "the caption is not plain text"),
        (f"{GOOD} **bold**", "the caption is not plain text"),
        (f"{GOOD}\u0007", "the caption holds characters that are no text"),
        ("The image shows a grey cat that sleeps on a red sofa.", "the caption speaks of the image"),
        ("In this vivid photograph a grey cat sleeps on a red sofa.", "the caption speaks of the image"),
        ("A picture in a golden frame hangs over the red sofa in a hall.", ""),
        ('A grey cat beneath a sign that says "OPEN LATE on a red sofa.', "a quotation in the caption does not end"),
        ("A grey cat beneath a sign that says “OPEN LATE on a red sofa.", "a quotation in the caption does not end"),
        (CHINESE, "the caption is in another language"),
        ("Серая кошка спит на красном диване под яркой вывеской у окна", "the caption is in another language"),
        ('A sign that says "深夜营业 欢迎光临 全场八折 清仓大甩卖" hangs over a sofa.', ""),
    ],
)
def test_the_caption(caption: str, why: str) -> None:
    assert judged(annotation(caption)) == why


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        (CHINESE, ""),
        ("一台 MacBook Pro 放在木桌上，屏幕上写着“Hello World”，旁边有一杯咖啡。", ""),
        ("图中是一只灰猫，它在红色沙发上睡觉，光线从左侧照来。", "the caption speaks of the image"),
        ("这张图片展示了一只在红色沙发上睡觉的灰猫，光线从左侧照来。", "the caption speaks of the image"),
        ("一只猫", "the caption is too short"),
        (
            "一只灰猫在红色沙发上睡觉，上方的招牌写着“深夜营业，光线从左侧照来。",
            "a quotation in the caption does not end",
        ),
        (GOOD, "the caption is in another language"),
    ],
)
def test_the_caption_in_chinese(caption: str, why: str) -> None:
    assert (
        judged(annotation(caption, **{"Image Type": "照片", "Image Style": "写实", "Abnormal Element": "否"}), "zh")
        == why
    )


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"Image Type": ""}, '"Image Type" says nothing'),
        ({"Image Style": "N/A"}, '"Image Style" says nothing'),
        ({"Image Style": "a style " * 12}, '"Image Style" is no few words'),
        ({"Watermark List": ["none"], "Abnormal Element": "yes"}, '"Watermark List" lists nothing as something'),
        ({"Watermark List": ["stock.example"]}, '"Abnormal Element" denies the watermarks'),
        ({"Watermark List": ["open late"], "Abnormal Element": "yes"}, "the caption quotes a watermark"),
        ({"Watermark List": ["x"] * 33, "Abnormal Element": "yes"}, '"Watermark List" is too long'),
        ({"Abnormal Element": "yes"}, ""),
    ],
)
def test_the_rest(others: dict[str, object], why: str) -> None:
    assert judged(annotation(GOOD, **others)) == why


def test_lengths_are_asked_for_and_every_fault_is_told() -> None:
    assert judged(annotation(GOOD), longest=10) == "the caption is too long"
    assert judged(annotation(GOOD), shortest=100) == "the caption is too short"
    with pytest.raises(Refused, match=r"too short \(2 words.*; a quotation in the caption does not end"):
        Rules().check(parsed(Reply(text=annotation('A "cat.'))))
    with pytest.raises(ValueError, match="fewest first"):
        Rules(shortest=9, longest=8)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_asked_names_the_keys_that_are_checked(language: Language) -> None:
    prompts = shipped(language)
    assert all(f'"{key}"' in prompts.ask for key in ("Caption", "Image Type", "Image Style", "Watermark List"))
    assert "a {hint} b" in prompts.question("a {hint} b"), "what is known is never filled in a second time"
    assert prompts.digest != shipped("zh" if language == "en" else "en").digest

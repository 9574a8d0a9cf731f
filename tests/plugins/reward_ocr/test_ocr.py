"""Reward ``ocr``, with the real models: right text is worth 1, wrong text little, and extra text costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image, ImageDraw
from torch import Tensor

from qi_core import Candidate, Place, QiError, Scores, typeface
from qi_core import ocr as engine
from qi_core.glyphs import Typeset
from qi_core.ocr import enlarged
from qi_core.testing import check_component, check_reward
from qi_plugins.reward_ocr.component import Ocr
from qi_plugins.reward_ocr.live import agreement, normal

pytest.importorskip("rapidocr")

PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())
LINE = Ocr(detect=False, margin=8)
"""For one-line pictures of 16 pixels."""
WORD = Typeset(characters="ABCDEFGHIJKLMNOPQRSTUVWXYZ", height=16, width=80, longest=5).fitted()
CHINESE = Typeset(characters="中国大学我们", height=16, width=80, longest=4).fitted()


def poster(*lines: str, size: int = 512, em: int = 56, noise: float = 0.0) -> Tensor:
    """(3, size, size) uint8: lines in cream on blue, one below the other."""
    image = Image.new("RGB", (size, size), (30, 60, 120))
    for number, line in enumerate(lines):
        place = (size // 2, size // 2 + (2 * number - len(lines) + 1) * em)
        ImageDraw.Draw(image).text(
            place, line, font=typeface.load(typeface.SHIPPED, em), fill=(250, 240, 220), anchor="mm"
        )
    dice = np.random.default_rng(3)
    pixels = np.asarray(image) + dice.normal(0.0, noise, (size, size, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def word(text: str, face: Typeset = WORD) -> Tensor:
    """(3, 16, 80) uint8: as the small recipes draw it."""
    return torch.from_numpy(face.mask(text)).expand(3, -1, -1).clone()


def candidate(image: Tensor, text: str = "", prompt: str = "") -> Candidate:
    return Candidate(key=f"{text}/{prompt}", group=prompt, prompt=prompt, image=image, text=text)


def judged(settings: Ocr, *candidates: Candidate) -> Scores:
    async def work() -> Scores:
        live = settings.build(PLACE)
        try:
            return await live.score(candidates)
        finally:
            await live.close()

    return asyncio.run(work())


def test_it_is_a_component() -> None:
    check_component(Ocr)


def test_it_keeps_the_contract() -> None:
    words = [candidate(word(text), text) for text in ("HELLO", "WORLD", "QWEN", "HAT")]
    check_reward(evolve(LINE, workers=2), candidates=[*words, candidate(word("HALLO"), prompt='the word "HELLO"')])


def test_lines_are_found_and_read_in_english_and_chinese() -> None:
    english, chinese = poster("Open at nine"), poster("欢迎光临")
    found = judged(
        Ocr(),
        candidate(english, prompt='a sign that says "OPEN AT NINE"'),
        candidate(chinese, prompt="招牌上写着“欢迎光临”"),
        candidate(poster("Open at nine", noise=25.0), text="Open at nine"),
        candidate(english, text="Closed today"),
        candidate(chinese, text="今天休息"),
    )
    right, also_right, noisy, wrong, also_wrong = found.values
    assert right == also_right == noisy == 1.0
    assert wrong is not None
    assert wrong < 0.35
    assert also_wrong == 0.0
    assert found.parts["exact"] == (1.0, 1.0, 1.0, 0.0, 0.0)
    assert found.failures == {}


def test_several_lines_are_one_text_and_extra_text_costs() -> None:
    two = poster("OPEN", "DAILY")
    found = judged(Ocr(), candidate(two, prompt='a sign "OPEN", below it "DAILY"'), candidate(two, text="OPEN"))
    assert found.values == (1.0, 0.0), "a picture that holds the text and more of it is not right"


def test_small_pictures_are_read_as_one_line() -> None:
    found = judged(
        LINE,
        candidate(word("HELLO"), "HELLO"),
        candidate(word("HALLO"), "HELLO"),
        candidate(word("中国大学", CHINESE), "中国大学"),
        candidate(word("QUEEN"), "STORM"),
        candidate(torch.full((3, 16, 80), 40, dtype=torch.uint8), "STORM"),
    )
    assert found.values[:3] == (1.0, pytest.approx(0.8), 1.0)
    assert found.values[3:] == (pytest.approx(0.0, abs=0.2), 0.0)


def test_enlarged_small_pictures_are_found_too() -> None:
    settings = Ocr(enlarge=4, margin=32, side=64)
    assert judged(settings, candidate(word("HELLO"), "HELLO")).values == (1.0,)


def test_a_prompt_that_asks_for_no_text_is_left_out_and_counted() -> None:
    found = judged(LINE, candidate(word("CAT"), prompt="a cat"), candidate(word("CAT"), prompt='a "CAT"'))
    assert found.values == (None, 1.0)
    assert found.parts["exact"] == (None, 1.0)
    assert found.failures == {"no text asked for": 1}


def test_what_the_reader_cannot_digest_is_one_pictures_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.enlarged

    def breaks(picture: engine.Bytes, settings: Ocr) -> engine.Bytes:
        if picture.max() == 7:
            raise ZeroDivisionError
        return whole(picture, settings)

    monkeypatch.setattr(engine, "enlarged", breaks)
    bad = torch.full((3, 16, 80), 7, dtype=torch.uint8)
    found = judged(LINE, candidate(word("CAT"), "CAT"), candidate(bad, "CAT"))
    assert found.values == (1.0, None)
    assert found.failures == {"the reader failed (ZeroDivisionError)": 1}


def test_lines_that_are_too_unsure_count_as_not_there() -> None:
    assert judged(evolve(LINE, least=1.0), candidate(word("HELLO"), "HELLO")).values == (0.0,)


def test_the_reader_gets_its_colours_in_its_own_order() -> None:
    shown: list[engine.Bytes] = []
    reader = engine.Engine(LINE, "reward ocr")
    read = reader._read

    def look(picture: engine.Bytes, **settings: bool) -> Any:
        shown.append(picture)
        return read(picture, **settings)

    reader._read = look
    reader.lines(np.full((16, 80, 3), (200, 100, 0), dtype=np.uint8))
    assert shown[0][0, 0].tolist() == [0, 100, 200], "OpenCV's is blue, green, red"


def test_which_differences_count() -> None:
    assert normal("Ｈello　 World\n", Ocr()) == "helloworld"
    assert normal("Ｈello　 World\n", Ocr(case=True, spaces=True)) == "Hello World"


@pytest.mark.parametrize(
    ("read", "worth"),
    [("hello", 1.0), ("hallo", 0.8), ("helo", 0.8), ("hello!", 0.8), ("", 0.0), ("hello hello hello", 0.0)],
)
def test_a_wrong_missing_or_added_character_costs_its_share(read: str, worth: float) -> None:
    assert agreement(read, "hello") == pytest.approx(worth)


def test_pictures_grow_by_whole_pixels_with_their_edge_around_them() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    grown = enlarged(picture, Ocr(enlarge=2, margin=1, resample="nearest"))
    assert grown.shape == (6, 6, 3)
    assert np.array_equal(grown[1:-1, 1:-1], picture.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(grown[0, 0], picture[0, 0])


OFFLINE = """
import socket, sys
def refuse(*args, **settings):
    print("asked for a connection", flush=True)
    sys.exit(3)
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
from pathlib import Path
from qi_core import Place
from qi_plugins.reward_ocr.component import Ocr
place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=1, folder=Path())
Ocr().build(place)
print("built")
"""


def test_nothing_is_downloaded() -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "built\n"), done.stderr


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine.find_spec
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "rapidocr" else found(name))
    with pytest.raises(QiError, match=r"rapidocr not installed; wanted .*; pip install 'qi\[ocr\]'"):
        Ocr().build(PLACE)


def test_a_package_without_its_models_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(engine, "find_spec", lambda name: Spec)
    with pytest.raises(QiError, match=r"holds 0 files \*_det_\*\.onnx; wanted the one that rapidocr's wheel carries"):
        Ocr().build(PLACE)

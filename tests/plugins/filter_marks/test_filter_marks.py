"""Codes by a library's detector, watermarks by reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image, ImageDraw

from qi_core import Place, QiError, Sample, typeface
from qi_core.testing import check_component, check_filter
from qi_plugins.filter_marks import codes
from qi_plugins.filter_marks.codes import Barcode
from qi_plugins.filter_marks.watermark import WORDS, Watermark

PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())
DICE = torch.Generator().manual_seed(0)
GRAIN = Sample(key="grain", prompt="", image=torch.randint(60, 200, (3, 384, 384), generator=DICE, dtype=torch.uint8))


def with_code(kind: str, scale: int, turn: int = 0) -> Sample:
    import zxingcpp

    made = zxingcpp.create_barcode("4006381333931" if kind == "EAN13" else "qi", getattr(zxingcpp.BarcodeFormat, kind))
    code = Image.fromarray(np.array(zxingcpp.write_barcode_to_image(made, scale=scale, add_quiet_zones=True)))
    photo = Image.fromarray(GRAIN.image.permute(1, 2, 0).numpy())
    photo.paste(code.convert("RGB").rotate(turn, expand=True, fillcolor=(255, 255, 255)), (100, 60))
    return evolve(GRAIN, key=kind, image=torch.from_numpy(np.array(photo)).permute(2, 0, 1))


@pytest.mark.parametrize(("kind", "scale", "turn"), [("QRCode", 4, 0), ("QRCode", 4, 17), ("EAN13", 2, 0)])
def test_codes_are_found(kind: str, scale: int, turn: int) -> None:
    live = Barcode().build(PLACE)
    assert live.measure(with_code(kind, scale, turn)) == 1.0
    assert live.refuses(1.0) == "QR code or bar code"
    assert Barcode(most=1).build(PLACE).refuses(1.0) == ""


def test_what_is_no_code_is_none_and_small_ones_are_found_enlarged() -> None:
    assert Barcode().build(PLACE).measure(GRAIN) == 0.0
    small = with_code("QRCode", 4)
    small = evolve(small, image=small.image[:, ::3, ::3].contiguous())
    assert Barcode(enlarge=3).build(PLACE).measure(small) == 1.0
    check_component(Barcode)
    check_filter(Barcode(), samples=[GRAIN, with_code("QRCode", 4)])


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "find_spec", lambda name: None)
    with pytest.raises(QiError, match=r"zxing-cpp is not installed; .*pip install 'qi\[data\]'"):
        Barcode().build(PLACE)


def test_what_is_a_mark() -> None:
    component = Watermark()
    words = tuple("".join(word.split()) for word in WORDS)
    for text in ("shutterstock", "Getty  Images", "© 2019 Jane Doe", "www.example.org", "视觉中国", "pix.example.com"):
        assert component.is_mark(text, words)
    for text in ("Open at nine", "欢迎光临", "3.50", "Coffee & tea"):
        assert not component.is_mark(text, words)
    assert not evolve(component, signs=False).is_mark("www.example.org", words)


def test_a_watermark_is_read_in_the_picture() -> None:
    pytest.importorskip("rapidocr")
    photo = Image.new("RGB", (384, 384), (90, 120, 160))
    over = Image.new("RGBA", photo.size)
    ImageDraw.Draw(over).text(
        (40, 160), "shutterstock", font=typeface.load(typeface.SHIPPED, 44), fill=(255,) * 3 + (150,)
    )
    marked = Image.alpha_composite(photo.convert("RGBA"), over).convert("RGB")
    live = Watermark(side=384).build(PLACE)
    samples = [evolve(GRAIN, image=torch.from_numpy(np.array(each)).permute(2, 0, 1)) for each in (photo, marked)]
    assert [live.refuses(live.measure(sample)) for sample in samples] == ["", "watermark"]
    check_component(Watermark)
    check_filter(Watermark(side=384), samples=samples)

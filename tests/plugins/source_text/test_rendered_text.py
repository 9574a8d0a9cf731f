"""Source ``rendered-text``: what is drawn, what is said about it, and what is never drawn."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qi_core import Place, QiError, typeface
from qi_core.colours import NAMED, contrast
from qi_core.drawing import made
from qi_core.glyphs import Legible, Reader
from qi_core.strings import frequent, is_held_out
from qi_plugins.source_text.component import RenderedPairs, RenderedText
from qi_plugins.source_text.live import TextSource

ALL = tuple(NAMED)


def build(seed: int = 0, multiple: int = 8, **settings: Any) -> TextSource:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=seed, folder=Path())
    return RenderedText(**settings).build(place, multiple)


def same(one: Any, other: Any) -> bool:
    return (one.key, one.prompt, one.text) == (other.key, other.prompt, other.text) and torch.equal(
        one.image, other.image
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alphabet": "chinese", "lengths": (1, 4)},
        {"alphabet": "both", "foreground": ALL, "background": ALL, "jitter": 1, "lengths": (1, 3)},
    ],
    ids=["latin", "chinese", "both, coloured, jittered"],
)
def test_pictures_say_what_captions_say(settings: dict[str, Any]) -> None:
    source = build(**settings)
    reader = Reader(typesets=source.typesets())
    for sample in source.draw(24):
        assert sample.image.shape == (3, 16, 64)
        assert sample.image.dtype == torch.uint8
        assert f'"{sample.text}"' in sample.prompt or f"“{sample.text}”" in sample.prompt
        assert reader.read((sample.image / 127.5 - 1).numpy()).text == sample.text


def test_the_nth_sample_depends_on_n_alone() -> None:
    whole = list(build(alphabet="both").draw(20))
    parts = build(alphabet="both")
    pieces = [sample for count in (1, 7, 12) for sample in parts.draw(count)]
    assert all(same(*pair) for pair in zip(whole, pieces, strict=True))
    assert len({sample.key for sample in whole}) == 20


def test_a_source_goes_on_where_another_stopped() -> None:
    first, second = build(), build()
    first.draw(13)
    second.load_state_dict(first.state_dict())
    assert all(same(*pair) for pair in zip(first.draw(5), second.draw(5), strict=True))


def test_another_seed_gives_other_samples() -> None:
    assert [s.text for s in build(seed=1).draw(10)] != [s.text for s in build(seed=2).draw(10)]


def test_no_string_is_in_both_splits() -> None:
    train, held = (
        {sample.text for sample in build(split=split, held_out=0.3, lengths=(1, 2)).draw(3000)}
        for split in ("train", "held-out")
    )
    assert not train & held
    assert len(train) == pytest.approx(0.7 * 702, rel=0.1)  # nearly all strings of 1 or 2 letters were drawn
    assert all(is_held_out(text, 0.3) for text in held)


def test_raising_the_held_out_part_frees_no_string() -> None:
    words = ["".join(letters) for letters in itertools.product("ABCDEFGH", repeat=3)]
    tenth, half = ({word for word in words if is_held_out(word, part)} for part in (0.1, 0.5))
    assert tenth < half
    assert len(tenth) / len(words) == pytest.approx(0.1, abs=0.04)


def test_held_out_strings_are_the_same_everywhere() -> None:
    assert [word for word in ("HELLO", "WORLD", "QWEN", "IMAGE", "你好", "ABC") if is_held_out(word, 0.5)] == [
        "你好",
        "ABC",
    ]


def test_pairs_of_too_little_contrast_are_never_drawn() -> None:
    source = build(foreground=ALL, background=ALL, contrast=4.5)
    seen = {tuple(sample.prompt.split()[-3::2]) for sample in source.draw(500)}
    assert seen == {(fore, back) for fore in ALL for back in ALL if contrast(NAMED[fore], NAMED[back]) >= 4.5}


def test_colours_are_the_ones_named() -> None:
    (sample,) = build(foreground=("red",), background=("yellow",)).draw(1)
    assert sample.prompt == f'the word "{sample.text}" in red on yellow'
    pixels = {tuple(pixel) for pixel in sample.image.flatten(1).T.tolist()}
    assert NAMED["yellow"] in pixels
    assert min(sum(abs(a - b) for a, b in zip(pixel, NAMED["red"], strict=True)) for pixel in pixels) < 40


def test_chinese_captions_name_colours_in_chinese() -> None:
    (sample,) = build(alphabet="chinese", foreground=("red",)).draw(1)
    assert sample.prompt == f"黑底红字“{sample.text}”"


def test_templates_can_be_set() -> None:
    templates = ('"{text}"', "写着“{text}”，{background}色的底")
    prompts = {sample.prompt.replace(sample.text, "?") for sample in build(templates=templates).draw(30)}
    assert prompts == {'"?"', "写着“?”，黑色的底"}


def test_lengths_and_characters_are_the_ones_asked_for() -> None:
    texts = [sample.text for sample in build(letters="abc", lengths=(1, 3), held_out=0.0).draw(300)]
    assert set(map(len, texts)) == {1, 2, 3}
    assert set("".join(texts)) == set("abc")
    chinese = {c for s in build(alphabet="chinese", charset=8, held_out=0.0).draw(200) for c in s.text}
    assert chinese == set(frequent()[:8])


def test_the_frequency_list_is_whole() -> None:
    assert len(frequent()) == len(set(frequent())) == 512
    assert typeface.covers(typeface.SHIPPED, frequent())


def lines(folder: Path, *content: str) -> Path:
    path = folder / "lines.txt"
    path.write_text("\n".join(content), encoding="utf-8")
    return path


def test_lines_of_a_file_come_each_once_a_round(tmp_path: Path) -> None:
    texts = lines(tmp_path, "one", "two", "", "three", "two", "四五")
    drawn = [s.text for s in build(text=texts, lengths=(1, 5), held_out=0.0).draw(8)]
    assert set(drawn[:4]) == set(drawn[4:]) == {"one", "two", "three", "四五"}


def test_unusable_lines_are_dropped_whole_and_counted(tmp_path: Path) -> None:
    texts = lines(tmp_path, "good", "bad \u0e01", 'say "x"', "much too long for this")
    source = build(text=texts, held_out=0.0)
    assert {sample.text for sample in source.draw(3)} == {"good"}
    assert source.report() == {
        "holds a character that no font has": 1,
        "holds a double quote": 1,
        "is shorter or longer than 'lengths'": 1,
    }


def test_paragraphs_are_wrapped_and_those_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    texts = lines(tmp_path, "a paragraph of several words", "中文段落，也要排成几行。", "word " * 200)
    source = build(text=texts, layout="paragraph", height=64, width=96, held_out=0.0)
    samples = source.draw(4)
    assert {len(s.text) for s in samples} == {28, 12}
    assert all(s.image.shape == (3, 64, 96) and s.image.max() > 200 for s in samples)
    assert source.report()["does not fit the picture"] >= 1
    with pytest.raises(QiError, match="layout = 'word'"):
        source.typesets()


def test_a_line_that_does_not_fit_costs_its_seat_alone(tmp_path: Path) -> None:
    """Each time round, every other line stands where it would anyway, and one of them sits in its seat too."""
    names = [f"line {i}" for i in range(8)]
    fits, misfits = (
        build(text=lines(tmp_path, *names, "word " * long), layout="paragraph", height=64, width=96, held_out=0.0)
        for long in (2, 200)
    )
    planned, found = ([sample.text for sample in source.draw(27)] for source in (fits, misfits))
    seats = [i for i, text in enumerate(planned) if text not in names]
    assert len(seats) == 3
    assert all(one == other for i, (one, other) in enumerate(zip(planned, found, strict=True)) if i not in seats)
    assert all(found[i] in names for i in seats)
    assert misfits.report() == {"does not fit the picture": 3}


def test_a_string_without_a_look_alike_costs_its_seat_alone(tmp_path: Path) -> None:
    """Strings are random, so another one stands in, which no run comes to by itself."""
    words = RenderedText(height=16, width=80, lengths=(1, 5), look_alikes=("OQ",), letters="OQABC")
    here = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    first, second = (RenderedPairs(text=words).build(here, 8) for _ in range(2))
    pairs, again = first.draw(60), [made(second, ticket).item for ticket in reversed(second.plan(60))][::-1]
    assert all(torch.equal(a.loser, b.loser) and a.key == b.key for a, b in zip(pairs, again, strict=True))
    own = [(n, pair.key) for n, pair in enumerate(pairs) if int(pair.key.removeprefix("train-")) < 2**62]
    assert own == [(n, f"train-{n}") for n, _ in own]
    assert 0 < 60 - len(own) <= sum(first.report().values())
    lost = [lost for ticket in first.plan(60) for lost in made(first, ticket).lost]
    assert lost
    assert all(one.rejected for one in lost), "many are so, and nothing is broken: the run need not end"


def test_a_file_with_nothing_usable_is_told(tmp_path: Path) -> None:
    with pytest.raises(QiError, match=r"lines\.txt: 0 usable lines.*no font has': 1"):
        build(text=lines(tmp_path, "\u0e01"))
    with pytest.raises(QiError, match=r"none\.txt: cannot be read"):
        build(text=tmp_path / "none.txt")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(QiError, match=r"latin1\.txt: not UTF-8 \(byte 3\)"):
        build(text=tmp_path / "latin1.txt")


def test_only_lines_that_fit_nowhere_end_in_a_message(tmp_path: Path) -> None:
    texts = lines(tmp_path, "unbreakable")
    with pytest.raises(QiError, match=r"^1000 samples in a row .*32x32 pixels; make the picture larger or the lines"):
        build(text=texts, layout="paragraph", height=32, width=32, held_out=0.0).draw(1)


def test_characters_that_no_font_has_are_told() -> None:
    with pytest.raises(QiError, match="no glyph for '\u0e01'"):
        build(letters="AB\u0e01")


def test_pictures_must_fit_the_autoencoder() -> None:
    with pytest.raises(QiError, match="multiples of 16"):
        build(width=72, multiple=16)


def test_a_split_without_strings_is_told() -> None:
    with pytest.raises(QiError, match="none of them belongs to split 'held-out'"):
        build(letters="A", lengths=(1, 1), held_out=0.001, split="held-out").draw(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foreground": ("crimson",)}, "'foreground' names crimson; wanted some of black"),
        ({"lengths": (3, 2)}, r"'lengths' is \[3, 2\]"),
        ({"templates": ("the word {text}",)}, "in double quotes"),
        ({"templates": ('"{text}" {size}',)}, "in double quotes"),
        ({"templates": ('"{text}" {',)}, "in double quotes"),
        ({"templates": ('"{text}" {foreground:z}',)}, "in double quotes"),
        ({"split": "held-out", "held_out": 0.0}, "holds nothing out"),
        ({"held_out": 1.0}, "nothing to train on"),
        ({"layout": "paragraph"}, "name a file"),
        ({"foreground": ("white",), "background": ("yellow",)}, "contrast"),
        ({"charset": 513}, "charset"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenderedText(**settings)


def test_a_source_of_words_can_be_read_back() -> None:
    assert isinstance(build(), Legible)


def test_it_leaves_the_cores_to_the_training() -> None:
    """Measured: about 30000 pictures a second on one core; a run of tiny pictures takes about 1000."""
    source = build(alphabet="both", foreground=ALL, background=ALL)
    source.draw(10)
    began = time.process_time()
    source.draw(1000)
    assert 1000 / (time.process_time() - began) > 3000


def test_the_settings_need_no_torch() -> None:
    code = "import sys, qi_plugins.source_text.component; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_look_alikes_are_mixed_up_while_the_caption_keeps_what_was_meant() -> None:
    plain, mixed = (build(letters="OQX", look_alikes=("OQ",), confused=part, held_out=0.0) for part in (0.0, 0.4))
    pairs = list(zip(plain.draw(300), mixed.draw(300), strict=True))
    assert all(one.prompt == other.prompt for one, other in pairs), "captions, colours and order stay the same"
    changed = [(a, b) for one, other in pairs for a, b in zip(one.text, other.text, strict=True)]
    assert all(a == b for a, b in changed if a == "X")
    share = sum(a != b for a, b in changed if a in "OQ") / sum(a in "OQ" for a, _ in changed)
    assert 0.35 < share < 0.45
    both = build(letters="OQX", look_alikes=("OQ",), confused=0.4, held_out=0.3).draw(300)
    assert not any(is_held_out(sample.text, 0.3) for sample in both), "by no way is a held-out string drawn"
    with pytest.raises(ValueError, match="each in one group only"):
        RenderedText(look_alikes=("OQ", "QC"))
    with pytest.raises(ValueError, match="without 'look_alikes'"):
        RenderedText(confused=0.1)
    with pytest.raises(QiError, match="look_alikes holds 'I1', which is not of the characters that are drawn"):
        build(look_alikes=("OQ", "I1"), confused=0.4)


def test_a_pair_is_one_string_right_and_with_a_look_alike_in_it(tmp_path: Path) -> None:
    words = RenderedText(height=16, width=80, lengths=(1, 5), look_alikes=("OQ", "EF", "MN"), foreground=ALL[:6])
    here = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)
    source = RenderedPairs(text=words).build(here, 8)
    reader = Reader(typesets=source.text.typesets())
    pairs = source.draw(40)
    for pair in pairs:
        won, lost = (reader.read(i.float().div(127.5).sub(1).numpy()).text for i in (pair.winner, pair.loser))
        assert f'"{won}"' in pair.prompt
        assert won != lost
        assert won.translate(str.maketrans("QFN", "OEM")) == lost.translate(str.maketrans("QFN", "OEM"))
    assert source.report()["holds no character that has a look-alike"] > 0
    with pytest.raises(ValueError, match="must name look_alikes"):
        RenderedPairs(text=RenderedText())


def test_paragraphs_are_set_in_every_way_that_is_asked_for(tmp_path: Path) -> None:
    texts = lines(tmp_path, "a line that is long, and one")
    common: dict[str, Any] = {"text": texts, "layout": "paragraph", "height": 96, "width": 96, "held_out": 0.0}
    plain = {sample.image.numpy().tobytes() for sample in build(**common).draw(12)}
    assert len(plain) == 1
    aligned = build(**common, aligns=("left", "centre", "right")).draw(12)
    assert len({sample.image.numpy().tobytes() for sample in aligned}) == 3
    spread = build(**common, size=12, spacing=(1.25, 2.5)).draw(1).items[0].image
    tight = build(**common, size=12).draw(1).items[0].image
    assert inked_rows(spread) > inked_rows(tight)
    for wrong in ({"aligns": ("middle",)}, {"aligns": ()}, {"spacing": (2.0, 1.5)}, {"spacing": (0.5, 1.5)}):
        with pytest.raises(ValueError, match="wanted"):
            RenderedText(**wrong)


def inked_rows(image: torch.Tensor) -> int:
    """From the first to the last row with any ink."""
    rows = image.sum(dim=(0, 2)).nonzero()
    return int(rows[-1] - rows[0])


def test_a_resume_notices_an_edited_file_of_lines(tmp_path: Path) -> None:
    """White space around lines says nothing. Going on with what is there begins a new round of the lines."""
    path = tmp_path / "lines.txt"
    path.write_text("ONE\nTWO\nSIX\n")
    settings: dict[str, Any] = {"text": path, "lengths": (3, 3), "held_out": 0}
    before = build(**settings)
    before.draw(4)
    kept = before.state_dict()
    path.write_text("ONE\n\n TWO\nSIX\n")
    build(**settings).load_state_dict(kept)
    path.write_text("ONE\nTWO\nTEN\nSUN\n")
    with pytest.raises(QiError, match=r"^source: text = '.*lines.txt' changed since the checkpoint; put back"):
        build(**settings).load_state_dict(kept)
    after = build(**settings, changed="next-epoch")
    after.load_state_dict(kept)
    assert {sample.text for sample in after.draw(4)} == {"ONE", "TWO", "TEN", "SUN"}


def test_a_resume_notices_another_font_under_the_name(tmp_path: Path) -> None:
    shipped, path = typeface.locate(typeface.SHIPPED).read_bytes(), tmp_path / "a.ttf"
    path.write_bytes(shipped)
    kept = build(fonts=(str(path),)).state_dict()
    path.write_bytes(shipped + b"\0")
    typeface.content.cache_clear()  # as in another process
    with pytest.raises(QiError, match=r"^source: font '.*a.ttf' changed since the checkpoint"):
        build(fonts=(str(path),)).load_state_dict(kept)

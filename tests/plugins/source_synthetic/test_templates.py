"""Source ``templates``: placeholders filled by rules, captions that say all of it, templates as files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qi_core import Place, QiError
from qi_core.colours import contrast
from qi_core.quotes import quoted
from qi_core.sizes import Size
from qi_core.source import Planned
from qi_core.strings import is_held_out
from qi_core.testing import check_component, check_source
from qi_plugins.source_synthetic.component import Templates
from qi_plugins.source_synthetic.live import SyntheticSource
from qi_plugins.source_synthetic.template import ROLES, shipped_palettes, shipped_templates
from qi_plugins.source_synthetic.wheres import colour

OWN = """
category = "ticket"
ratios = [0.9, 1.1]
called = { english = "ticket", chinese = "车票" }
[english]
class = ["First class", "Second class"]
[chinese]
class = ["一等座", "二等座"]
[[elements]]
kind = "text"
called = { english = "class", chinese = "座位" }
box = [0.1, 0.1, 0.8, 0.3]
say = "class"
[[elements]]
kind = "text"
called = { english = "time", chinese = "时间" }
box = [0.1, 0.6, 0.8, 0.3]
say = "time"
"""


def build(run: Path, seed: int = 0, **settings: Any) -> SyntheticSource:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=seed, folder=run)
    return Templates(**{"side": 512, **settings}).build(place, 16)


def own(folder: Path, text: str = OWN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ticket.toml").write_text(text, encoding="utf-8")
    return folder


def test_folders_may_be_told_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own(tmp_path / "own")
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (600, 600)).save(tmp_path / "photographs" / "a.png")
    source = build(tmp_path, folder=Path("~/own"), pictures=Path("~/photographs"), shipped=False, ratios=("1:1",))
    assert source.make((0, 0)).category == "text/complex/ticket"


def test_a_chart_ends_where_no_number_is_of_the_split(tmp_path: Path) -> None:
    head, _, _ = OWN.partition("[[elements]]")
    chart = '[[elements]]\nkind = "chart"\nbox = [0.1, 0.1, 0.8, 0.8]\ncharts = ["columns"]\n'
    folder = own(tmp_path / "own", head + chart)
    source = build(tmp_path, folder=folder, shipped=False, ratios=("1:1",), held_out=1e-9, split="held-out")
    with pytest.raises(QiError, match=r"times numbers of three digits.* none of it belongs to split 'held-out'"):
        source.make((0, 0))


def test_the_contracts(tmp_path: Path) -> None:
    check_component(Templates)
    check_source(Templates(side=256), multiple=16)
    assert isinstance(build(tmp_path), Planned)


@pytest.mark.parametrize("name", shipped_templates())
def test_captions_say_all_that_a_template_writes(name: str, tmp_path: Path) -> None:
    ratio = "16:9" if shipped_templates()[name].suits(Size(height=900, width=1600)) else "9:16"
    source = build(tmp_path, only=(name,), ratios=(ratio,))
    for sample in source.draw(8):
        assert sorted(quoted(sample.prompt)) == sorted(sample.text.split("\n"))
        assert sample.category == f"text/complex/{shipped_templates()[name].category}"
    assert source.report() == {}  # everything fits its place, at the first attempt


def test_sizes_are_those_that_templates_suit(tmp_path: Path) -> None:
    source = build(tmp_path, ratios=("16:9", "9:16"))
    shapes = {}
    for ticket in source.plan(40):
        sample = source.make(ticket)
        assert source.cost(ticket) == sample.image[0].numel()
        shapes.setdefault(sample.category, set()).add(tuple(sample.image.shape[1:]))
    assert shapes["text/complex/slide"] == {(384, 688)}
    assert shapes["text/complex/mobile"] == {(688, 384)}


def test_what_is_alike_has_letters_of_one_size_and_cells_keep_the_format_of_their_column(tmp_path: Path) -> None:
    source = build(tmp_path, only=("slide-table",), ratios=("16:9",), languages=("english",))
    formats = (r"\$[\d.]+", r"[\d.]+%", r"[\d,]+")
    for sample in source.draw(6):
        match = re.search(r"columns (.*) and the rows (.*?)\.(?= At|$)", sample.prompt)
        assert match
        rows = [quoted(row) for row in match[2].split("; ")]
        for column in list(zip(*rows, strict=True))[1:]:
            assert any(all(re.fullmatch(form, cell) for cell in column) for form in formats)


def test_the_template_of_the_documentation_is_drawn(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "synthesis.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[[elements]]" in block)
    source = build(tmp_path, folder=own(tmp_path / "own", block), shipped=False, ratios=("16:9",))
    for sample in source.draw(6):
        assert re.search(r"(stops|车站)[:：]", sample.prompt)
    assert source.report() == {}


def test_what_is_held_out_is_never_drawn_for_training(tmp_path: Path) -> None:
    for sample in build(tmp_path, held_out=0.3).draw(30):
        assert not any(is_held_out(part, 0.3) for part in {*sample.text.split("\n"), *sample.text.split()})
    for sample in build(tmp_path, held_out=0.3, split="held-out").draw(20):
        assert all(is_held_out(text, 0.3) for text in sample.text.split("\n"))


def test_letters_are_seen_on_their_grounds_in_every_palette() -> None:
    on = [("ink", "ground"), ("on_accent", "accent"), ("on_soft", "soft"), ("faint", "ground"), ("ink", "soft")]
    for name, palette in shipped_palettes().items():
        assert set(palette) == set(ROLES), name
        for letters, ground in on:
            assert contrast(palette[letters], palette[ground]) >= 4.5, f"{name}: {letters} on {ground}"


def test_colours_are_called_what_people_call_them() -> None:
    assert [colour(rgb) for rgb in ((15, 61, 102), (250, 250, 240), (30, 107, 60), (179, 38, 30), (20, 23, 31))] == [
        "blue",
        "white",
        "green",
        "red",
        "black",
    ]


def test_a_template_of_ones_own_is_one_file(tmp_path: Path) -> None:
    source = build(tmp_path, folder=own(tmp_path / "own"), shipped=False, ratios=("1:1",), held_out=0.0)
    texts = set()
    for sample in source.draw(16):
        assert sample.category == "text/complex/ticket"
        texts.add(sample.text.split("\n")[0])
    assert texts == {"First class", "Second class", "一等座", "二等座"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kind =", "knid ="), "ticket.toml: no template: Object contains unknown field `knid` - at `$.elements[0]`"),
        (("category =", "category"), "ticket.toml: no template: "),
        (('say = "time"', 'say = "tiem"'), "elements[1]: 'tiem' cannot be said; wanted one of"),
        (("[0.1, 0.6, 0.8, 0.3]", "[0.1, 0.6, 0.8, 0.7]"), "elements[1]: box = [0.1, 0.6, 0.8, 0.7]; wanted"),
        (('say = "time"', 'colour = "pink"'), "elements[1]: colour = 'pink'; wanted one of ground, ink"),
        (('say = "time"', "repeat = [3, 99]"), "repeat = [3, 99]; wanted [fewest, most] within 1 to 24"),
        (('say = "time"', "elements = []"), None),
        (('kind = "text"', 'kind = "group"'), "kind = 'group' with 0 elements"),
        (('"First class"', "'First \"class\"'"), "english.class: wanted texts without"),
        (("[chinese]\nclass", "[chinese]\nclas"), "don't have the same lists"),
        (
            ("[0.9, 1.1]", "[1.9, 2.1]"),
            "none suits side = 512 and ratios = ['1:1'] (they suit, width by height and shorter side: ticket",
        ),
    ],
)
def test_a_wrong_template_is_told_with_its_file_and_place(
    change: tuple[str, str], message: str | None, tmp_path: Path
) -> None:
    folder = own(tmp_path / "own", OWN.replace(*change))
    if message is None:
        build(tmp_path, folder=folder, shipped=False, ratios=("1:1",))
        return
    with pytest.raises(QiError, match=re.escape(message)):
        build(tmp_path, folder=folder, shipped=False, ratios=("1:1",))


def test_templates_are_chosen_by_name_or_kind_and_those_that_suit_no_shape_are_counted(tmp_path: Path) -> None:
    source = build(tmp_path, only=("slide", "mobile-list"), ratios=("16:9",))
    assert source.report() == {"templates that suit none of the sizes": 1}
    with pytest.raises(QiError, match=r"only = \['slied'\]: no such template or kind; wanted some of"):
        build(tmp_path, only=("slied",))


def test_pictures_of_a_folder_stand_where_pictures_belong(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (200, 200), (255, 0, 200)).save(tmp_path / "photographs" / "pink.png")
    source = build(tmp_path, only=("slide-picture",), ratios=("16:9",), pictures=tmp_path / "photographs")
    sample = source.draw(1).items[0]
    assert sample.image[:, 20, 20].tolist() == [255, 0, 200]


def test_lines_of_a_file_stand_in_the_place_of_words(tmp_path: Path) -> None:
    lines = [f"short line {number}" for number in range(5)]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    source = build(
        tmp_path,
        text=tmp_path / "lines.txt",
        only=("slide-bullets",),
        ratios=("16:9",),
        languages=("english",),
        held_out=0.0,
    )
    for sample in source.draw(4):
        assert set(sample.text.split("\n")) <= set(lines)


def test_a_resume_notices_an_edited_template(tmp_path: Path) -> None:
    """Of those that are drawn or not: which are, the settings may change freely."""
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "ticket.toml").write_text(OWN)
    kept = build(tmp_path, folder=folder).state_dict()
    build(tmp_path, folder=folder, only=("slide",)).load_state_dict(kept)
    (folder / "ticket.toml").write_text(OWN.replace("First", "Third"))
    with pytest.raises(QiError, match=r"^source: folder = '.*templates' changed since the checkpoint"):
        build(tmp_path, folder=folder).load_state_dict(kept)

"""What ``qi plan`` tells and draws of a curriculum."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from qi_registry.cli import main
from qi_registry.planning.stages import scheme, svg
from qi_registry.reader import loads
from support.small_run import RECIPE, write_recipe

TEXT = (
    RECIPE.replace("save_every = 7", "")
    + """
[curriculum]
name = "stages"
[[curriculum.stages]]
name = "<plain>"
steps = 20
[[curriculum.stages]]
name = "both"
steps = 20
transition = 10
mixture = { real = 0.25, drawn = 0.75 }
lr = 0.5
shift = 3.0
set = ["source.parts.real.source.width=48"]
[[curriculum.stages]]
name = "late"
steps = 50
tokens = 4096
[[curriculum.stages]]
name = "never"
"""
)
HEAD, _, REST = TEXT.partition("[source]")
TEXT = (
    HEAD
    + """[source]
name = "mixture"
[[source.parts]]
name = "real"
source = { name = "rendered-text", width = 32 }
[[source.parts]]
name = "drawn"
weight = 0
source = { name = "rendered-text", width = 32 }
"""
    + REST.split("lengths = [1, 2]\n", 1)[1]
)


def test_stages_are_told_as_a_table_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.svg"
    main(["plan", str(write_recipe(tmp_path, TEXT)), "-o", str(picture)])
    out = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert rows[3:7] == [
        "<plain> 0 to 20 4 samples real 1 1 1",
        "both 20 to 40, the first 10 in transition 4 samples real 0.25, drawn 0.75 0.5 3 "
        "source.parts.real.source.width=48",
        "late 40 to 60 4096 tokens real 0.25, drawn 0.75 0.5 3",
        "never never: the run is too short 4096 tokens real 0.25, drawn 0.75 0.5 3",
    ]
    drawn = next(line for line in out.splitlines() if line.startswith("drawn"))
    assert drawn.count("▆") > 25, "three quarters"
    assert "▁▁" in drawn, "by a slope"
    ElementTree.parse(picture)


def test_the_picture_shows_every_stage_that_begins() -> None:
    drawn = scheme(loads(TEXT, where="small.toml"))
    assert drawn is not None
    tree = ElementTree.fromstring(svg(drawn))
    words = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert {"<plain>", "both", "late", "real", "drawn", "learning rate x", "shift"} <= set(words)
    assert "never" not in words
    areas = [element.get("points", "") for element in tree.iter() if element.tag.endswith("polygon")]
    tops = [{y for _, y in (point.split(",") for point in area.split())} for area in areas]
    assert "185.0" in tops[0], "real comes down to a quarter"
    assert "50.0" in tops[1], "together they are the whole"


def test_names_longer_than_their_stages_stand_above_what_follows() -> None:
    text = TEXT.replace('"<plain>"', f'"{"a long name of a stage that is short " * 9}"').replace(
        '"both"', '"中文 and English"'
    )
    drawn = scheme(loads(text, where="small.toml"))
    assert drawn is not None
    tree = ElementTree.fromstring(svg(drawn))
    rows = {
        (element.text or "")[:6]: float(element.get("y", "")) for element in tree.iter() if element.tag.endswith("text")
    }
    assert (rows["a long"], rows["中文 and"[:6]], rows["late"]) == (27, 42, 42)
    assert tree.get("viewBox") == "0 -15 900 495", "there is room for it"
    assert any("…" in (element.text or "") for element in tree.iter()), "and what there is none for is cut"


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        (TEXT, "plan.png", "wanted a name that ends in .svg"),
        (TEXT, "no/plan.svg", "could not be written"),
        (RECIPE, "plan.svg", "has no [curriculum], so there are no stages to draw"),
    ],
)
def test_a_picture_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, name: str, why: str
) -> None:
    assert main(["plan", str(write_recipe(tmp_path, text)), "--picture", str(tmp_path / name)]) == 2
    assert why in capsys.readouterr().err

"""What a worker process of a producer has loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qi_core import Place, QiError, material
from qi_core.portions import Order
from qi_registry import assemble, specs
from qi_registry.producing import Bench
from qi_registry.reader import loads
from qi_registry.recipe import to_toml
from support.small_run import RECIPE


def test_specs_share_their_encoders_which_go_with_the_last_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold that moves is a new spec, and a conditioner may have billions of weights."""
    built = list[Any]()

    def noted(*given: Any) -> Any:
        built.append(known(*given))
        return built[-1]

    known = assemble.encoders_of
    monkeypatch.setattr(assemble, "encoders_of", noted)
    cache = f"[data.cache]\npath = {str(tmp_path / 'cache')!r}\n"
    bench = Bench(tmp_path, "")

    def work(*sets: str) -> Any:
        recipe = loads(RECIPE + cache, where="a recipe", sets=sets)
        made = bench(to_toml(recipe).encode())
        order = Order(spec=specs.digest(recipe), step=0, number=0, tickets=((0,), (1,)), slots=(0, 1))
        assert len(made(order).batch) == 2
        return made

    works = [work(f"data.filters.clarity.least={least}") for least in (0.0, 0.001, 0.002)]
    assert len(built) == 1
    works[0].close()
    works.append(work("autoencoder.patch=16"))
    assert len(built) == 2
    for each in works[1:]:
        each.close()
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    bench.close()
    assert list((tmp_path / "cache").glob("*.safetensors")), "what was encoded is put away at the end"


def test_a_producer_whose_data_is_other_refuses_and_says_what(tmp_path: Path) -> None:
    """It would make other samples of the same numbers, under the same keys."""
    lines, folder = tmp_path / "lines.txt", tmp_path / "photos"
    lines.write_text("ONE\nTWO\n")
    folder.mkdir()
    (folder / "a.txt").write_text("a grey wall")
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    text = f'{{name="rendered-text", text={str(lines)!r}, held_out=0, lengths=[3, 3]}}'
    photos = f'{{name="images", path={str(folder)!r}, side=16}}'
    parts = f'source={{name="mixture", parts=[{{source={text}}}, {{name="photos", source={photos}}}]}}'
    recipe = loads(RECIPE, where="a recipe", sets=(parts, "data.filters=[]"))
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=recipe.train.seed, folder=tmp_path)
    trainers = material.told(specs.source(recipe, place))
    order = Order(spec="", step=0, number=0, tickets=((0, 0), (1, 0, 0)), slots=(0, 1), made_of=trainers)
    bench = Bench(tmp_path, "")
    assert len(bench(to_toml(recipe).encode())(order).batch) == 2
    (folder / "a.txt").write_text("a black wall")
    with pytest.raises(QiError, match=r"^version skew: photos: path = '.*photos': the producer's files are not"):
        bench(to_toml(recipe).encode())(order)
    (folder / "a.txt").write_text("a grey wall")
    lines.write_text("ONE\nSIX\n")
    with pytest.raises(QiError, match=r"^version skew: 0: text = '.*lines.txt': the producer's files are not"):
        bench(to_toml(recipe).encode())(order)

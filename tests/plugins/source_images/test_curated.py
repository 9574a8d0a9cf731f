"""The source ``curated``: exact shares over a hierarchy, a bar of quality that says what it removed, resumable."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from PIL import Image, ImageFilter

from qi_core import Place, QiError, Sample, Samples
from qi_core.testing import check_component, check_source
from qi_plugins.source_images.balance import capped, shares
from qi_plugins.source_images.curated import Category, Curated
from qi_plugins.source_images.curating import tell
from qi_plugins.source_images.images import Images
from qi_plugins.source_images.quality import Quality
from support.numbered import Numbered

BAR = Quality(clarity=200, detail=3, brightness=(0.2, 0.9), saturation=0.05)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    run = tmp_path / "run"
    run.mkdir()
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=run)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def good(seed: int = 0, size: int = 32) -> Any:
    """Sharp, of many tones, bright and coloured."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def save(image: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    path.with_suffix(".txt").write_text(f"caption of {path.stem}")


def fill(data: Path, **counts: int) -> Path:
    """So many good pictures in each folder; __ stands for /."""
    for name, count in counts.items():
        for i in range(count):
            save(good(1000 * len(name) + i), data / name.replace("__", "/") / f"{i}.png")
    return data


def curated(data: Path, **settings: Any) -> Curated:
    images = settings.pop("images", {})
    return Curated(**{"balance": "uniform", **settings}, images=Images(path=str(data), side=32, **images))


def drawn(source: Any, count: int) -> Counter[str]:
    return Counter(sample.category for sample in source.draw(count))


def skips(place: Place) -> dict[str, tuple[str, str]]:
    lines = (place.folder / "skipped.jsonl").read_text().splitlines()
    return {line["key"]: (line["reason"], line["detail"]) for line in map(json.loads, lines)}


# --- balance -------------------------------------------------------------------------------------------------------

COUNTS = {"people/portrait": 60, "people/crowd": 20, "people": 16, "text": 4}


@pytest.mark.parametrize(
    ("rule", "levels", "wanted"),
    [
        ("natural", True, {"people/portrait": "60/100", "people/crowd": "20/100", "people": "16/100", "text": "4/100"}),
        ("uniform", True, {"people/portrait": "1/6", "people/crowd": "1/6", "people": "1/6", "text": "1/2"}),
        ("uniform", False, {"people/portrait": "1/4", "people/crowd": "1/4", "people": "1/4", "text": "1/4"}),
        # sqrt(60), sqrt(20), sqrt(16) under sqrt(96) beside sqrt(4), to a millionth
        ("power", True, {"text": Fraction("2") / (Fraction("2") + Fraction("9.797959"))}),
        ("power", False, {"people": Fraction("4") / Fraction("18.218103")}),
    ],
)
def test_siblings_share_by_rule(rule: Any, levels: bool, wanted: dict[str, Any]) -> None:
    """At each level of the hierarchy, what a category holds itself being one more child; or over all categories."""
    found = shares({name: Fraction(count) for name, count in COUNTS.items()}, rule, 0.5, levels)
    assert {name: found[name] for name in wanted} == {name: Fraction(share) for name, share in wanted.items()}
    assert sum(found.values()) == 1
    assert list(found) == list(COUNTS)


def test_a_category_is_repeated_no_more_than_allowed_and_the_others_get_the_rest() -> None:
    counts = {name: Fraction(count) for name, count in {"a": 90, "b": 8, "c": 2}.items()}
    even = dict.fromkeys(counts, Fraction(1, 3))
    assert capped(even, counts, Fraction(3)) == {"a": Fraction("0.7"), "b": Fraction("0.24"), "c": Fraction("0.06")}
    assert capped(even, counts, Fraction(1)) == {"a": Fraction("0.9"), "b": Fraction("0.08"), "c": Fraction("0.02")}
    assert capped(even, counts, Fraction(100)) == even


def test_the_shares_of_a_hierarchy_are_exact(data: Path, place: Place) -> None:
    """Uniform at each level: of 64, 32 to either top category, and 16 and 16, or 8 four times, below."""
    fill(data, a__x=5, a__y=1, b__1=2, b__2=3, b__3__p=1, b__3__q=4, b=1)
    source = curated(data).build(place, 16)
    for _ in range(4):
        found = drawn(source, 64)
        assert found == {"a/x": 16, "a/y": 16, "b": 8, "b/1": 8, "b/2": 8, "b/3/p": 4, "b/3/q": 4}


def test_natural_shares_follow_the_files_and_a_limit_holds(data: Path, place: Place) -> None:
    fill(data, many=14, few=2)
    assert drawn(curated(data, balance="natural").build(place, 16), 64) == {"many": 56, "few": 8}
    assert drawn(curated(data).build(place, 16), 64) == {"many": 32, "few": 32}
    assert drawn(curated(data, repeats=2).build(place, 16), 64) == {"many": 48, "few": 16}
    told = json.loads((place.folder / "curation.json").read_text())
    assert told[str(data)] == {"few": {"samples": 2, "share": 0.25}, "many": {"samples": 14, "share": 0.75}}


def test_each_category_gives_all_its_samples_before_any_comes_again(data: Path, place: Place) -> None:
    fill(data, a=5, b=3)
    keys = [sample.key for sample in curated(data).build(place, 16).draw(64)]
    own = [key for key in keys if key.startswith("a/")]
    assert all(len(set(own[start : start + 5])) == 5 for start in range(0, 30, 5))
    assert own[:5] != own[5:10]


def test_small_categories_are_left_out_and_told(data: Path, place: Place) -> None:
    fill(data, a=5, b=2)
    source = curated(data, least=3).build(place, 16)
    assert drawn(source, 10) == {"a": 10}
    assert source.report() == {"b: too small a category, left out": 2}
    assert skips(place)["b/0.png"] == ("category too small", "2 samples, at least 3 wanted")


# --- layouts -------------------------------------------------------------------------------------------------------


def test_a_folder_a_jsonl_and_a_shard_give_the_same_samples(data: Path, place: Place, tmp_path: Path) -> None:
    fill(data, people__portrait=3, people=2, text=4)
    pictures = sorted(path for path in data.rglob("*.png"))
    records = [
        {
            "image": str(path),
            "caption": path.with_suffix(".txt").read_text(),
            "category": f"/{path.parent.relative_to(data)} ",
        }
        for path in pictures
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, records)))
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for number, record in enumerate(records):
            parts = {
                "png": Path(record["image"]).read_bytes(),
                "json": json.dumps(record).encode(),
                "txt": record["caption"].encode(),
            }
            for suffix, content in parts.items():
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    def seen(path: Path) -> set[tuple[str, str, bytes]]:
        source = curated(path).build(place, 16)
        batch = source.draw(64)
        assert source.report() == {}
        assert Counter(sample.category for sample in batch) == {"people/portrait": 16, "people": 16, "text": 32}
        return {(sample.category, sample.prompt, sample.image.numpy().tobytes()) for sample in batch}

    assert len(seen(data)) == 9
    assert seen(data) == seen(tmp_path / "set.jsonl") == seen(tmp_path / "set.tar")


@pytest.mark.parametrize("uncategorised", ["keep", "skip"])
def test_samples_without_a_category(data: Path, place: Place, uncategorised: Any) -> None:
    save(good(), data / "a.png")
    lines = [{"category": "x"}, {}, {"category": None}, {"category": " / "}, {"category": 3}]
    path = data / "set.jsonl"
    path.write_text("\n".join(json.dumps({"image": "a.png", "caption": "c", **line}) for line in lines))
    source = curated(path, uncategorised=uncategorised).build(place, 16)
    if uncategorised == "keep":
        assert drawn(source, 64) == {"x": 32, "uncategorised": 32}
        assert source.report() == {"category is no text": 1}
    else:
        assert drawn(source, 64) == {"x": 64}
        assert source.report() == {"category is no text": 1, "no category": 3}


# --- the bar of quality --------------------------------------------------------------------------------------------

CHECKS = Image.fromarray((np.indices((32, 32)).sum(0) % 2 * 200).astype(np.uint8))
BAD = {
    "blurred": (good().filter(ImageFilter.GaussianBlur(3)), "not clear", "at least 200 wanted"),
    "dark": (good().point(lambda value: value // 4), "too dark", "brightness 0.12"),
    "bright": (good().point(lambda value: 255 - value // 8), "too bright", "0.2 to 0.9 wanted"),
    "flat": (CHECKS, "not detailed", "detail 1 bits, at least 3 wanted; saturation 0"),
    "pale": (good().convert("L"), "too pale", "saturation 0, at least 0.05 wanted"),
    "black": (Image.new("RGB", (32, 32)), "not clear", "clarity 0, at least 200 wanted; detail 0 bits"),
}  # fmt: skip


def test_what_is_below_the_bar_goes_and_is_told_with_value_and_threshold(data: Path, place: Place) -> None:
    fill(data, good=3)
    for name, (picture, _, _) in BAD.items():
        save(picture.convert("RGB"), data / "mixed" / f"{name}.png")
    save(good(5), data / "mixed" / "fine.png")
    source = curated(data, quality=BAR).build(place, 16)
    seen = {sample.key for sample in source.draw(64)}
    assert seen == {"good/0.png", "good/1.png", "good/2.png", "mixed/fine.png"}
    told = skips(place)
    for name, (_, reason, detail) in BAD.items():
        assert told[f"mixed/{name}.png"][0] == f"mixed: {reason}", name
        assert detail in told[f"mixed/{name}.png"][1], name
    assert source.report() == {
        "mixed: not clear": 2, "mixed: not detailed": 1, "mixed: too dark": 1, "mixed: too bright": 1,
        "mixed: too pale": 1,
    }  # fmt: skip


def test_without_a_bar_all_are_kept(data: Path, place: Place) -> None:
    for name, (picture, _, _) in BAD.items():
        save(picture.convert("RGB"), data / f"{name}.png")
    source = curated(data).build(place, 16)
    assert len({sample.key for sample in source.draw(6)}) == 6
    assert source.report() == {}


@pytest.mark.parametrize("side", [32, 16])
def test_the_picture_is_measured_as_it_is_stored(data: Path, place: Place, side: int) -> None:
    """Not at the size of its bucket: a large soft JPEG, decoded small, would look sharp."""
    soft = good(size=64).resize((512, 512), Image.Resampling.BICUBIC)
    (data / "a").mkdir()
    soft.save(data / "a" / "soft.jpg", quality=95)
    (data / "a" / "soft.txt").write_text("soft")
    save(good(size=64), data / "a" / "sharp.png")
    source = curated(data, quality=Quality(clarity=500), images={}).build(place, 16)
    assert {sample.key for sample in source.draw(4)} == {"a/sharp.png"}


def test_a_category_that_loses_all_its_samples_is_left_out_and_told_in_one_line(data: Path, place: Place) -> None:
    fill(data, a__x=3, a__y=3)
    for i in range(11):
        save(good(i).point(lambda value: value // 3), data / "night" / f"{i}.png")
    source = curated(data, quality=BAR).build(place, 16)
    assert source.report() == {"night: left out, for none is good enough (11 too dark)": 11}
    assert drawn(source, 64) == {"a/x": 32, "a/y": 32}
    assert skips(place)["night/3.png"][0] == "too dark"


def test_when_none_is_good_enough_the_run_does_not_start(data: Path, place: Place) -> None:
    save(good().convert("L").convert("RGB"), data / "a" / "grey.png")
    with pytest.raises(QiError, match=r"no category is left \(1 x a: left out.*1 too pale.*skipped.jsonl"):
        curated(data, quality=BAR).build(place, 16)


def test_the_measures_by_hand() -> None:
    """A checkerboard of 0 and 200: the Laplacian is +-800; two tones are one bit; half of 200 of 255."""
    from qi_plugins.source_images import quality

    luma = (np.indices((300, 9)).sum(0) % 2 * 200).astype(np.uint8)
    assert quality.clarity(luma) == pytest.approx(800**2, rel=1e-3)
    whole = luma.astype(np.float64)
    laplacian = whole[:-2, 1:-1] + whole[2:, 1:-1] + whole[1:-1, :-2] + whole[1:-1, 2:] - 4 * whole[1:-1, 1:-1]
    assert quality.clarity(luma) == pytest.approx(laplacian.var())
    rng = np.random.default_rng(0).integers(0, 256, (600, 31), np.uint8)
    whole = rng.astype(np.float64)
    laplacian = whole[:-2, 1:-1] + whole[2:, 1:-1] + whole[1:-1, :-2] + whole[1:-1, 2:] - 4 * whole[1:-1, 1:-1]
    assert quality.clarity(rng) == pytest.approx(laplacian.var())
    histogram = Image.fromarray(luma).histogram()
    assert quality.entropy(histogram) == pytest.approx(1.0)
    assert quality.average(histogram) == pytest.approx(100 / 255, rel=1e-3)
    assert quality.clarity(np.zeros((2, 9), np.uint8)) == 0


# --- order and position --------------------------------------------------------------------------------------------


@pytest.fixture
def uneven(data: Path) -> Path:
    """Three categories of 4, 3 and 2 with broken and bad pictures among them."""
    fill(data, a__x=6, a__y=3, b=4)
    save(good().convert("L").convert("RGB"), data / "a" / "x" / "2.png")
    for name in ("a/x/4.png", "b/0.png"):
        (data / name).write_bytes((data / name).read_bytes()[:900])
    return data


def test_it_is_a_component_and_keeps_the_contract_of_sources(uneven: Path) -> None:
    """Over blocks of shares, ends of epochs, and pictures that are passed over."""
    check_component(Curated)
    check_source(
        curated(uneven, quality=BAR, images={"crop": "random", "flip": True, "workers": 2}), multiple=16, count=80
    )


def test_batch_size_and_workers_change_nothing_and_a_resume_goes_on(uneven: Path, place: Place) -> None:
    def told(samples: Any) -> list[tuple[str, bytes]]:
        return [(sample.key, sample.image.numpy().tobytes()) for sample in samples]

    settings = curated(uneven, quality=BAR, images={"crop": "random"})
    unbroken = settings.build(place, 16)
    wanted = told(unbroken.draw(90))
    many = evolve(settings, images=evolve(settings.images, workers=1)).build(place, 16)
    assert [item for count in (1, 2, 64, 23) for item in told(many.draw(count))] == wanted
    source = settings.build(place, 16)
    source.draw(40)
    resumed = settings.build(place, 16)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert told(resumed.draw(50)) == wanted[40:]
    assert resumed.report() == unbroken.report() == {
        "a/x: cannot be decoded": 1, "a/x: too pale": 1, "b: cannot be decoded": 1,
    }  # fmt: skip
    assert sorted(skips(place)) == ["a/x/2.png", "a/x/4.png", "b/0.png"]


def test_changed_data_is_refused_or_told(uneven: Path, place: Place) -> None:
    source = curated(uneven).build(place, 16)
    source.draw(5)
    state = source.state_dict()
    save(good(3), uneven / "b" / "new.png")
    with pytest.raises(QiError, match=r"category 'b': the data changed.*4 usable samples then, now 5"):
        curated(uneven).build(place, 16).load_state_dict(state)
    save(good(4), uneven / "c" / "new.png")
    with pytest.raises(QiError, match=r"categories came or went.*gone: none; new: c"):
        curated(uneven).build(place, 16).load_state_dict(state)
    resumed = curated(uneven, images={"changed": "next-epoch"}).build(place, 16)
    resumed.load_state_dict(state)
    assert drawn(resumed, 64)["c"] == pytest.approx(64 / 3, abs=1)


# --- sources as categories -----------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Drawn:
    """Pictures without files, every ``bad``-th of them grey."""

    gives: ClassVar[type] = Samples

    bad: int = 0

    def build(self, place: Place, multiple: int) -> Any:
        return _Drawn(self.bad, place.seed)


class _Drawn(Numbered):
    def __init__(self, bad: int, seed: int) -> None:
        super().__init__(seed)
        self.bad = bad

    def sample(self, n: int) -> Sample:
        image = good(self.seed % 1000 + n)
        grey = image.convert("L").convert("RGB") if self.bad and n % self.bad == 0 else image
        return Sample(
            key=f"{n}", prompt=f"picture {n}", image=torch.from_numpy(np.array(grey)).permute(2, 0, 1).contiguous()
        )

    def report(self) -> dict[str, int]:
        return {"too small": 2} if self.bad else {}


def nested(bad: int = 3, **settings: Any) -> Curated:
    parts = {"text/new": Drawn(bad=bad), "text/old": Drawn(), "photo": Drawn()}
    categories = tuple(
        Category(category=name, source=source, weight=weight)
        for (name, source), weight in zip(parts.items(), (2, 1, 1), strict=True)
    )
    return Curated(**{"balance": "uniform", "quality": BAR, **settings}, categories=categories)


def test_sources_are_categories_too(place: Place) -> None:
    source = nested().build(place, 16)
    batch = source.draw(64)
    assert Counter(sample.category for sample in batch) == {"text/new": 16, "text/old": 16, "photo": 32}
    stood_in = (1000, 1, 2, 1003, 4, 5, 1006, 7)
    assert [s.key for s in batch if s.category == "text/new"][:8] == [f"text/new/{n}" for n in stood_in]
    assert source.report() == {"text/new: too small": 2, "text/new: too pale": 6}
    assert skips(place)["text/new/3"] == ("text/new: too pale", "saturation 0, at least 0.05 wanted")
    assert drawn(nested(balance="natural").build(place, 16), 64) == {"text/new": 32, "text/old": 16, "photo": 16}
    seeds = {child.seed for child in source._stock.children.values()}
    assert len(seeds | {place.seed}) == 4, "two sources of one kind must not roll the same numbers"


def test_sources_keep_the_contract_too() -> None:
    check_source(nested(), multiple=16, count=80)


def test_a_source_of_which_none_is_good_enough_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qi_core.drawing.TRIES", 20)
    with pytest.raises(QiError, match=r"^20 samples in a row .* text/new/\d+: text/new: too pale .*; ask less of them"):
        nested(bad=1).build(place, 16).draw(10)


def test_categories_may_be_added_at_a_resume_but_not_taken_away(place: Place) -> None:
    source = nested().build(place, 16)
    source.draw(10)
    fewer = evolve(nested(), categories=nested().categories[1:])
    with pytest.raises(QiError, match="knows a category 'text/new', the recipe has text/old, photo"):
        fewer.build(place, 16).load_state_dict(source.state_dict())
    smaller = fewer.build(place, 16)
    smaller.draw(10)
    more = nested().build(place, 16)
    more.load_state_dict(smaller.state_dict())
    found = drawn(more, 64)  # and what was due to the two when there were only two
    assert {name: pytest.approx(found[name], abs=1) for name in found} == {"text/new": 16, "text/old": 16, "photo": 32}


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Curated(balance="uniform"), r"neither of 'images' and 'categories'"),
        (lambda: evolve(nested(), images=Images(path="x")), "both of 'images' and 'categories'"),
        (lambda: evolve(nested(), categories=nested().categories[:1] * 2), "two categories are called 'text/new'"),
        (lambda: nested(repeats=2.0), "'repeats' counts files"),
        (lambda: nested(least=2), "'least' counts files"),
        (lambda: Curated(balance="uniform", images=Images(path="x"), repeats=0.5), "at least 1, or 0"),
        (lambda: Category(category="/a", source=Drawn()), "wanted a path such as people/portrait"),
        (lambda: Quality(brightness=(0.9, 0.1)), "wanted \\[least, most\\]"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(make: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        make()


def test_the_same_data_as_images_gives_every_picture_that_images_gives(uneven: Path, place: Place) -> None:
    """Without a bar and with natural shares, only the order is another."""
    plain = Images(path=str(uneven), side=32).build(place, 16)
    balanced = curated(uneven, balance="natural").build(place, 16)
    both = [{(s.key, s.prompt, s.image.numpy().tobytes()) for s in source.draw(40)} for source in (plain, balanced)]
    assert both[0] == both[1]


# --- documentation -------------------------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[3] / "docs" / "sft.md"


def test_the_documentation_shows_every_key() -> None:
    import tomllib

    from attrs import fields

    shown = tomllib.loads(GUIDE.read_text(encoding="utf-8").split("```toml")[1].split("```")[0])["source"]
    assert shown.keys() - {"name"} == {field.name for field in fields(Curated)} - {"categories"}
    assert shown["quality"].keys() == {field.name for field in fields(Quality)}


@pytest.mark.parametrize(
    ("words", "rule", "levels"),
    [
        ("natural", "natural", True),
        ("uniform, levels", "uniform", True),
        ("uniform, categories", "uniform", False),
        ("power 0.5, levels", "power", True),
        ("power 0.5, categories", "power", False),
    ],
)
def test_the_documentation_shows_the_shares_that_come_out(words: str, rule: Any, levels: bool) -> None:
    found = shares({name: Fraction(count) for name, count in COUNTS.items()}, rule, 0.5, levels)
    figures = " | ".join(f"{float(share) * 100:.1f} %" for share in found.values())
    assert f"| {words} | {figures} |" in GUIDE.read_text(encoding="utf-8")


def test_of_several_ranks_the_first_one_keeps_the_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        tell(tmp_path, "pictures", {"cats": Fraction(2)}, {"cats": Fraction(1)})
        assert (tmp_path / "curation.json").exists() == (rank == "0")

"""Data sets of one's own: what `add_dataset` registers, from where the class splits come, what it refuses."""

import shutil
from pathlib import Path

import pytest
from tiny_sources import CLASSES, FORMS, picture

from freelib.datasets import MissingDataError, find_source, load_dataset
from freelib.datasets.own import add_dataset, draw_splits, registration
from freelib.folders import registrations_folder
from freelib.run.reproduce import check_choices


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))


def test_a_registered_data_set_is_as_good_as_a_built_in_one(tmp_path, monkeypatch):
    FORMS["split tree"](tmp_path, "pets")
    with pytest.raises(ValueError, match=r"no data set is called 'pets'; known are glyphs, cifar-fs"):
        load_dataset("pets", "train")
    add_dataset("pets", tmp_path / "pets", size=16)
    data = load_dataset("pets", "train")
    assert (data.name, data.class_names, data.image_size) == ("pets", CLASSES["train"], 16)
    check_choices({"DATASETS": ["pets", "cub+pets"]})
    picture("ant", 99).save(tmp_path / "pets" / "train" / "ant" / "new.png")
    assert load_dataset("pets", "train").counts == (7, 6)
    (tmp_path / "pets").rename(tmp_path / "moved")
    with pytest.raises(MissingDataError, match=r"pets was at .*pets: put it there, or"):
        find_source("pets")
    registration("pets").write_text("{")
    with pytest.raises(ValueError, match=r"pets\.json is damaged .*`freelib data remove pets`"):
        load_dataset("pets", "train")
    assert registrations_folder() == tmp_path / "cache" / "datasets"
    monkeypatch.delenv("FREELIB_CACHE")
    assert registrations_folder().parts[-2:] == ("freelib", "datasets")


@pytest.mark.parametrize(
    ("form", "lines", "seed", "how"),
    [
        ("split tree", None, None, "as the data says"),
        ("lists", None, None, "as the data says"),
        ("split by image", None, None, "drawn with seed 0"),
        ("shards in a repository", None, 3, "drawn with seed 3"),
        ("lists", "# mine\ntest\tant\nval\tbee\n\ntrain\tcow\n", None, "as lines says"),
        ("parquet", 'split,class\ntest,"ant"\nvalid,bee\ntrain,cow', None, "as lines says"),
    ],
)
def test_where_class_splits_come_from(form, lines, seed, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FORMS[form](tmp_path, "pets")
    Path("lines").write_text(lines or "")
    path = "pets.parquet" if form == "parquet" else "pets"
    assert add_dataset("pets", path, size=8, splits="lines" if lines else None, split_seed=seed).how == how
    drawn = draw_splits(["ant", "bee", "cow", "doe"], seed or 0)
    chosen = {"cow": "train", "bee": "validation", "ant": "test"} if lines else drawn
    for split, names in CLASSES.items():
        names = names if "data" in how else tuple(sorted(c for c in chosen if chosen[c] == split))
        assert load_dataset("pets", split).class_names == names
        assert load_dataset("pets", split).counts == (6,) * len(names)


@pytest.mark.parametrize(("n", "counts"), [(3, (1, 1, 1)), (15, (5, 5, 5)), (20, (10, 5, 5)), (100, (64, 16, 20))])
def test_classes_are_drawn_64_16_20_and_five_where_that_goes(n, counts):
    classes = [f"c{i}" for i in range(n)]
    drawn = draw_splits(classes, 1)
    assert (sorted(drawn), draw_splits(classes[::-1], 1)) == (sorted(classes), drawn)
    assert tuple(list(drawn.values()).count(split) for split in CLASSES) == counts


@pytest.mark.parametrize(
    ("name", "settings", "lines", "words"),
    [
        ("cub", {}, "", "'cub' can't be a data set's name"),
        ("../pets", {}, "", "can't be a data set's name"),
        ("pe\x1b[2Jts", {}, "", "can't be a data set's name"),
        ("a+b", {}, "", "can't be a data set's name"),
        ("taken", {}, "", "taken is registered already"),
        ("pets", {"path": "nowhere"}, "", "nowhere is not there"),
        ("pets", {"path": "empty"}, "", "empty holds no class folders with images"),
        ("pets", {"path": "damaged"}, "", r"1\.png is not a readable image"),
        ("pets", {"path": "two"}, "", "two has no validation classes: give"),
        ("pets", {"splits": "lines", "split_seed": 1}, "", "not from both"),
        ("pets", {"splits": "lines"}, "train\tyak", r"lines has the line 'train\\tyak'; expected train, "),
        ("pets", {"splits": "lines"}, "train,ant\ntest,ant", "lines has the line 'test,ant'"),
    ],
)
def test_what_is_refused_is_not_registered(name, settings, lines, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("whole", "damaged", "two"):
        FORMS["split tree"](tmp_path, folder)
    Path("damaged/test/doe/1.png").write_bytes(b"x")
    shutil.rmtree("two/validation")
    Path("lines").write_text(lines)
    Path("empty").mkdir()
    add_dataset("taken", "whole", size=8)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        add_dataset(name, **{"path": "whole", "size": 8, **settings})
    assert [file.stem for file in registrations_folder().iterdir()] == ["taken"]

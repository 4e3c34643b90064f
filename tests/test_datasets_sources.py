"""Data sets in every form, built-in and one's own, give the same data; what is wrong is named."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_sources import CLASSES, COUNT, FORMS, picture, rows, write_cifar, write_images, write_parquet
from torchvision.datasets import CIFAR100

import freelib.datasets as datasets
from freelib.datasets import FewShotDataset, MissingDataError, find_source, load_dataset
from freelib.datasets.class_lists import class_lists
from freelib.datasets.few_shot import digest_of
from freelib.datasets.own import add_dataset, draw_splits, registration
from freelib.datasets.sources import decode, stack
from freelib.folders import registrations_folder
from freelib.run.reproduce import check_choices


@pytest.fixture(autouse=True)
def tiny_lists(monkeypatch):
    monkeypatch.setattr(datasets, "class_lists", lambda name: CLASSES)
    monkeypatch.delenv("FREELIB_DATA", raising=False)


@pytest.fixture
def load(tmp_path) -> Callable[..., FewShotDataset]:
    """`load_dataset` from the test's folder, with a cache in it."""

    def load(name: str, split: str = "train", **settings) -> FewShotDataset:
        return load_dataset(name, split, **{"root": tmp_path, "cache": tmp_path / "cache", **settings})

    return load


@pytest.mark.parametrize("form", [*FORMS, "torchvision"])
def test_every_form_gives_the_same_tensor(form, tmp_path, monkeypatch, load):
    write_cifar(tmp_path, monkeypatch) if form == "torchvision" else FORMS[form](tmp_path, "cifar-fs")
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path))
    data = load("cifar-fs", root=None)

    expected = stack((picture("bee", i) for i in range(COUNT)), 32)
    assert data.class_names == ("ant", "bee")
    assert data.counts == (COUNT, COUNT)
    assert np.array_equal(data.class_images(1).numpy(), expected)
    raw = {np.asarray(picture("bee", i)).transpose(2, 0, 1).tobytes() for i in range(COUNT)}
    assert {image.numpy().tobytes() for image in data.class_images(1)} == raw
    everything = np.concatenate([stack((picture("ant", i) for i in range(COUNT)), 32), expected])
    assert data.digest == digest_of(torch.from_numpy(everything), ("ant", "bee"), (0, COUNT, 2 * COUNT))
    scaled = data.images.double() / 255
    assert torch.allclose(torch.tensor(data.mean).double(), scaled.mean(dim=(0, 2, 3)), atol=1e-7)
    deviation = scaled.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    assert torch.allclose(torch.tensor(data.std).double(), deviation, atol=1e-7)


def test_splits_share_the_normalisation_of_train_and_follow_the_published_rule(tmp_path, load):
    write_parquet(tmp_path / "cub.parquet", rows())
    train, validation, test = (load("cub", split, size=32) for split in CLASSES)
    assert (validation.class_names, test.class_names) == (("cow",), ("doe",))
    assert train.mean == validation.mean == test.mean
    assert np.array_equal(test.images.numpy(), stack((picture("doe", i) for i in range(COUNT)), 32))
    assert load("cub", "test").image_size == 84
    assert load("cub", "test", size=20).image_size == 20
    lists = class_lists("cub")
    every = sorted(c for names in lists.values() for c in names)
    assert lists["train"] == tuple(every[::2])
    assert lists["validation"] == tuple(every[1::4])
    assert lists["test"] == tuple(every[3::4])


def test_images_are_squeezed_averaged_and_made_rgb_and_their_order_does_not_depend_on_reading():
    # One-pixel columns of black and white: without antialiasing the result would be black or white.
    columns = np.zeros((16, 64, 3), dtype=np.uint8)
    columns[:, ::2] = 255
    small = stack([Image.fromarray(columns)], 8)
    assert small.shape == (1, 3, 8, 8)
    assert 110 < small.min() <= small.max() < 145
    images = [picture("ant", i) for i in range(COUNT)]
    assert np.array_equal(stack(images, 32), stack(images[::-1], 32))


ROW = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255] * 3, [0] * 3, [99] * 3]], dtype=np.uint8)
RAMP = np.linspace(0, 65535, 144).round().astype(np.uint16).reshape(12, 12)


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [(1, ROW), (2, ROW[:, ::-1]), (3, ROW[::-1, ::-1]), (4, ROW[::-1]), (5, ROW.transpose(1, 0, 2)),
     (6, np.rot90(ROW, -1)), (7, ROW[::-1, ::-1].transpose(1, 0, 2)), (8, np.rot90(ROW))],
)  # fmt: skip
def test_an_image_is_turned_as_its_exif_data_says(orientation, seen):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ROW.repeat(16, 0).repeat(16, 1)).save(buffer, "JPEG", exif=exif, quality=95, subsampling=0)
    np.testing.assert_allclose(np.asarray(decode(buffer.getvalue(), "x"))[8::16, 8::16], seen, atol=3)


@pytest.mark.parametrize(
    ("image", "kind", "mean"),
    [
        (Image.fromarray(RAMP), "PNG", [127.5] * 3),
        (Image.fromarray(RAMP.astype(np.int32)), "TIFF", [127.5] * 3),
        (Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF", [127.5] * 3),
        (Image.fromarray((RAMP / 257).astype(np.float32)), "TIFF", [127.5] * 3),
        (Image.new("L", (12, 12), 7), "PNG", [7] * 3),
        (Image.new("RGB", (12, 12), (255, 0, 0)).convert("P"), "PNG", [255, 0, 0]),
        (Image.new("CMYK", (12, 12), (0, 255, 255, 0)), "TIFF", [255, 0, 0]),
        (Image.new("RGBA", (12, 12), (0, 100, 200, 51)), "PNG", [204, 224, 244]),
        (Image.new("RGBA", (12, 12), (0, 100, 200, 51)).quantize(2), "PNG", [204, 224, 244]),
        (Image.new("RGBA", (12, 12), (0, 0, 0, 0)), "GIF", [255] * 3),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF", None),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF", None),
    ],
)
def test_every_mode_keeps_its_brightness_or_is_refused(image, kind, mean):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    if mean is None:
        with pytest.raises(ValueError, match=r"x is not a readable image .*its values go from"):
            decode(buffer.getvalue(), "x")
    else:
        assert np.asarray(decode(buffer.getvalue(), "x")).mean(axis=(0, 1)).tolist() == pytest.approx(mean, abs=0.01)


def test_no_image_is_left_out_for_its_suffix_or_for_want_of_a_split_column(tmp_path, load):
    FORMS["tree"](tmp_path, "cub")
    kinds = {".JPG": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".tif": "TIFF", ".webp": "WEBP", ".bmp": "BMP", "": "PNG"}
    for suffix, kind in kinds.items():
        picture("bee", 99).save(tmp_path / "cub" / "bee" / f"more{suffix}", kind)
    assert load("cub", size=8).counts == (COUNT, COUNT + len(kinds))
    parquet_with(len, drop="split")(tmp_path)
    with pytest.raises(ValueError, match="'val'; known are train, validation, test"):
        load("cub", "val")
    assert load("cub", "validation", size=8).images.shape == (6, 3, 8, 8)


@pytest.mark.parametrize("place", ["cub/{c}/{i}.png", "cub/{split}/{c}/{i}.png", "CUB_200_2011/images/{c}/{i}.png"])
def test_a_class_may_be_called_train(place, tmp_path, monkeypatch, load):
    monkeypatch.setattr(datasets, "class_lists", lambda name: CLASSES | {"train": ("ant", "train")})
    write_images(tmp_path, place)
    for folder in list(tmp_path.glob("**/bee")):
        folder.rename(folder.with_name("train"))
    assert load("cub", size=8).counts == (COUNT, COUNT)


def test_download_is_left_to_torchvision_and_only_on_request(tmp_path, monkeypatch, load):
    asked: list[bool] = []

    def fetch(self: CIFAR100) -> None:
        asked.append(True)
        if len(asked) == 1:
            raise URLError("no network")
        if not (tmp_path / "cifar-100-python").exists():
            write_cifar(tmp_path, monkeypatch)

    monkeypatch.setattr(CIFAR100, "download", fetch)
    with pytest.raises(MissingDataError):
        load("cifar-fs", "test")
    assert not asked
    with pytest.raises(OSError, match=r"not be fetched \(.*no network.*: try again, or unpack cifar-100-python\.tar"):
        load("cifar-fs", "test", download=True)
    assert load("cifar-fs", "test", download=True).counts == (COUNT,)
    assert len(asked) > 1


@pytest.mark.parametrize(
    ("name", "counts", "split", "example"),
    [
        ("cifar-fs", (64, 16, 20), "train", "apple"),
        ("mini-imagenet", (64, 16, 20), "test", "n01930112"),
        ("cub", (100, 50, 50), "validation", "002.Laysan_Albatross"),
        ("glyphs", (64, 16, 20), "test", "AMPERSAND"),
    ],
)
def test_shipped_lists_have_the_published_sizes_and_do_not_overlap(name, counts, split, example):
    lists = class_lists(name)
    assert tuple(map(len, lists.values())) == counts
    assert len(set().union(*lists.values())) == sum(counts)
    assert example in lists[split]


def parquet_with(change: Callable[[list[dict]], object], drop: str | None = None) -> Callable[[Path], None]:
    """Writes the tiny Parquet file after a change of its rows, without one of its columns."""

    def write(root: Path) -> None:
        content = rows()
        change(content)
        write_parquet(root / "cub.parquet", [{k: v for k, v in row.items() if k != drop} for row in content])

    return write


def tree_with(change: Callable[[Path], object], by_split: bool = False) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        FORMS["split tree" if by_split else "tree"](root, "cub")
        change(root / "cub")

    return write


def half_parquet(root: Path) -> None:
    write_parquet(root / "cub.parquet", rows())
    data = (root / "cub.parquet").read_bytes()
    (root / "cub.parquet").write_bytes(data[: len(data) // 2])


def misplace(content: list[dict]) -> None:
    next(row for row in content if row["label"] == "doe")["split"] = "train"


def cut(content: list[dict]) -> None:
    content[5]["image"]["bytes"] = content[5]["image"]["bytes"][:100]


def shards_about(about: object) -> Callable[[Path], None]:
    """Shards whose schema says something else of the classes."""

    def write(root: Path) -> None:
        FORMS["shards in a folder"](root, "cub")
        for file in root.glob("*/*.parquet"):
            told = pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps(about)})
            pq.write_table(told, file)

    return write


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (shards_about([1]), "expected class names, or numbers named in the schema"),
        (shards_about({"info": {"features": {"fine_label": {"names": "abcd"}}}}), "expected class names, or numbers"),
        (parquet_with(cut), r"cub\.parquet, row 5 \(.*\.png\) is not a readable image"),
        (parquet_with(lambda x: x[3]["image"].update(bytes=None)), r"row 3 .* has no image bytes"),
        (parquet_with(lambda x: [row.update(label="wasp") for row in x if row["label"] == "bee"]),
         r"lacks 1 of the 2 train classes of cub: 'bee'"),
        (parquet_with(misplace), r"puts class 'doe' into \['test', 'train'\]"),
        (parquet_with(len, drop="label"), r"has columns \['image', 'split'\]; expected image .* and label"),
        (half_parquet, r"cub\.parquet is not a readable Parquet file"),
        (tree_with(lambda f: (f / "cow" / "2.png").write_bytes(b"x")), r"2\.png is not a readable image"),
        (tree_with(lambda f: (f / "cow" / "x.heic").write_bytes(b"x")), r"x\.heic is not a readable image"),
        (
            tree_with(lambda f: Image.new("1", (9500, 9500)).save(f / "cow" / "x.png")),
            r"x\.png is not a readable image .*(9500 × 9500 pixels, expected 89,478,485 at most|decompression bomb)",
        ),
        (tree_with(lambda f: (f / "doe").rename(f / "deer")), r"lacks 1 of the 1 test classes of cub: 'doe'"),
        (tree_with(lambda f: [file.unlink() for file in (f / "bee").glob("*")]), r"bee holds no image"),
        (tree_with(lambda f: (f / "test" / "bee").mkdir(), by_split=True), r"test.bee holds no image"),
        (tree_with(lambda f: shutil.copytree(f / "train", f / "copy"), by_split=True),
         r"class 'ant' is in .*copy.*ant and in .*train.*ant; keep one"),
        (tree_with(lambda f: picture("x", 0).save(f / "train" / "x.png"), by_split=True),
         r"train holds images, and folders of images such as ant"),
        (tree_with(lambda f: os.mkfifo(f / "bee" / "x.png")), r"x\.png is not a readable image \(no file\)"),
        (parquet_with(lambda x: [row.update(label=3) for row in x]), r"column label is int64; expected class names"),
        (parquet_with(lambda x: [row.update(image="a.png") for row in x]), r"column image is string; expected enc"),
        (parquet_with(lambda x: [row.update(image=[row["image"]] * 2) for row in x]), r"has no image bytes"),
        (lambda root: FORMS["shards in a folder"](root, "cub") or next(root.glob("*/*-00000-of*")).unlink(),
         r"cub.parquet has 1 of 2 shards train-\*-of-00002.parquet; get them all"),
        (lambda root: write_images(root / "cub", "images-{split}-cache.pkl"), r"cache\.pkl is a pickle.*image_data"),
        (lambda root: FORMS["lists"](root, "cub") or (root / "cub" / "val.csv").write_text("a,b\n"),
         r"val\.csv has no columns filename and label"),
        (lambda root: FORMS["lists"](root, "cub") or (root / "cub" / "images" / "cow1.jpg").unlink(),
         r"cow1\.jpg is not a readable image \(no file\)"),
    ],
)  # fmt: skip
def test_damaged_and_incomplete_data_is_named_and_leaves_no_cache(tmp_path, load, write, words):
    write(tmp_path)
    with pytest.raises(ValueError, match=words):
        load("cub", size=8)
    assert not list((tmp_path / "cache").glob("*.*"))


def test_damaged_or_partial_cifar_is_refused(tmp_path, monkeypatch, load):
    write_cifar(tmp_path, monkeypatch)
    with (tmp_path / "cifar-100-python" / "test").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="not a whole copy of CIFAR-100"):
        load("cifar-fs")
    (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(ValueError, match="lacks meta"):
        load("cifar-fs")


@pytest.mark.parametrize("name", ["cifar-fs", "mini-imagenet", "cub"])
def test_missing_data_says_what_to_get_and_where_to_put_it(name, load):
    with pytest.raises(MissingDataError, match=rf"FREELIB_DATA.*{name}\.parquet.*images are those of"):
        load(name, root=None)
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in .*: put there .*{name}/<class>/<image>"):
        load(name)


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

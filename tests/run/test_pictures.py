"""Pictures by the command line: adapt and export, from folders of images to answers and files."""

import csv
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pool

from freelib import FewShotClassifier, load_learner, meta_train, save_learner

COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 40, 50)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a learner, pictures of three colours, and three to be named."""
    folder, noise = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for place in (f"shown/{name}/0.png", f"shown/{name}/1.jpg", f"asked/{name}.png"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(np.array(colour) + noise.normal(0, 20, (30, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / place)
    (folder / "shown/red/._0.png").write_bytes(b"a Mac's")
    settings = {"procedural": 64, "mixed": 0, "recovered": 0, "epochs": 2, "batch_size": 16, "width": 4, "embedding": 8}
    learner, pool = meta_train(tiny_pool(), **settings), tiny_pool()
    save_learner(learner, folder / "l", method="pool_distillation", config=learner.config, seed=0, pool=pool)
    return folder


@pytest.fixture(autouse=True)
def here(stored, run, tmp_path):
    """The current folder is a copy of the stored one."""
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)


def by_hand() -> FewShotClassifier:
    """The learner, fitted on what is shown."""
    files = sorted(Path("shown").glob("*/[0-9]*"))
    return FewShotClassifier(load_learner("l")).fit(files, [file.parent.name for file in files])


def test_adapt_names_pictures(run):
    words = ("adapt", "--learner", "l", "--support", "shown", "--query", "asked")
    rows = json.loads(run(*words, "--csv", "out/a.csv", "--sheet", "out/sheet.png", "--json").out)
    assert [(Path(r["file"]).stem, r["class"], Path(r["nearest"]).parent.name) for r in rows] == [
        (name, name, name) for name in COLOURS
    ]
    expected = by_hand().predict_proba(sorted(Path("asked").iterdir()))
    np.testing.assert_allclose([list(r["probabilities"].values()) for r in rows], expected, atol=1e-5)
    with Path("out/a.csv").open() as file:
        (first, *_) = csv.DictReader(file)
    assert (first["class"], float(first["blue"])) == ("blue", pytest.approx(rows[0]["probability"]))
    with Image.open("out/sheet.png") as sheet:
        assert min(sheet.size) > 100
    lines = run(*words, "asked/red.png").out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["file", "class"], ["asked/blue.png", "blue"]]
    assert len(lines) == 5
    assert run(*words, "--reject", "0.5").code == 0


@pytest.mark.slow
def test_exported_files_answer_as_the_learner_does(run):
    onnxruntime = pytest.importorskip("onnxruntime")
    written = run("export", "--learner", "l", "--support", "shown", "--onnx", "o/a.onnx", "--pt2", "a.pt2", "--json")
    assert written.code == 0, written.err
    rows = json.loads(written.out)
    assert [row["file"] for row in rows] == ["o/a.onnx", "a.pt2"]
    assert all(0 < row["MB"] < 1 and 0 < row["ms_per_image"] < 1000 for row in rows)
    images, names = torch.rand(7, 3, 16, 16), {"classes.json": ""}
    expected = by_hand().predict_proba(images)
    program = torch.export.load("a.pt2", extra_files=names).module()
    np.testing.assert_allclose(program(images), expected, atol=1e-5)
    session = onnxruntime.InferenceSession("o/a.onnx")
    for n in (1, 7):
        (found,) = session.run(None, {"images": images[:n].numpy()})
        np.testing.assert_allclose(found, expected[:n], atol=1e-5)
    told = (session.get_modelmeta().custom_metadata_map["classes"], names["classes.json"])
    assert [json.loads(text) for text in told] == [list(COLOURS)] * 2


def test_doctor_and_a_dry_run(run, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    told = json.loads(run("train", "free", "--out", "new", "--dry-run", "--set", "rounds=7", "--json").out)
    assert told == {"method": "free", "pool": "glyphs, profile smoke", "models": 10, "rounds": 7, "seconds": None}
    assert "seconds: not known" in run("train", "free", "--out", "new", "--dry-run").out
    assert json.loads(run("train", "--out", "new", "--minutes", "2", "--dry-run", "--json").out)["seconds"] == 120
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FREELIB_DATA", raising=False)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x").write_bytes(bytes(20_000_000))
    rows = {row["name"]: row for row in json.loads(run("doctor", "--json").out)}
    assert rows["torch"] == {"name": "torch", "found": version("torch"), "advice": ""}
    assert rows["cache"]["found"].endswith("0.02 GB")
    assert rows["data set glyphs"]["found"]
    assert (rows["data set cub"]["found"], "FREELIB_DATA" in rows["data set cub"]["advice"]) == (None, True)
    assert "threads" in run("doctor").out

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from fake_methods import TINY
from made_records import made
from PIL import Image
from test_tables import record

from freelib.experiments import overview
from freelib.experiments.evidence import Evidence
from freelib.experiments.summary import gathered
from freelib.run.records import RecordStore
from freelib.run.units import Unit

RESULTS = Path(__file__).parents[1] / "results" / "cpu"


def images(rows=2, columns=3, side=8):
    """The record of some recovered images."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((rows * side, columns * side, 3), np.uint8)).save(buffer, "PNG")
    extra = {
        "png": base64.b64encode(buffer.getvalue()).decode(),
        "models": ["a"] * rows,
        "pool": 7,
        "steps": 5,
    }
    return record(overview.NAME, [1.0], experiment="overview", extra=extra)


@pytest.fixture
def store(tmp_path):
    store = RecordStore(tmp_path / "records")
    store.put(made(Unit("table1", "free", "cifar-fs", 1, 0), TINY, [30.0, 40.0] * 3))
    return store


def test_the_committed_picture_shows_what_the_records_say():
    path = RESULTS / "figures" / "overview.png"
    assert overview.shown(path) == overview.drawn(gathered(RESULTS))
    assert path.stat().st_size < 300_000


def test_without_images_there_is_no_picture(store, tmp_path):
    assert overview.drawn(Evidence(TINY, store)) is None
    assert overview.draw(tmp_path, Evidence(TINY, store)) is None


def test_it_is_drawn_again_only_where_a_record_has_changed(store, tmp_path):
    store.put(images())
    path = overview.draw(tmp_path, Evidence(TINY, store))
    bars = overview.shown(path)["bars"]
    assert (bars["title"], bars["accuracy"], bars["ci95"]) == (
        ["FREE"],
        [35.0],
        [pytest.approx(4.383, abs=1e-3)],
    )
    before = path.stat().st_mtime_ns
    overview.draw(tmp_path, Evidence(TINY, store))
    assert path.stat().st_mtime_ns == before
    store.put(made(Unit("table1", "random", "cifar-fs", 1, 0), TINY, [20.0, 30.0] * 3))
    overview.draw(tmp_path, Evidence(TINY, store))
    assert sorted(overview.shown(path)["bars"]["method"]) == ["free", "random"]


def test_the_bars_are_the_accuracies(store):
    store.put(images())
    evidence = Evidence(TINY, store)
    wanted = overview.drawn(evidence)
    scene, bars = overview.overview_figure(images(), wanted).axes
    assert bars.patches[0].get_width() == 35.0
    assert (wanted["chance"], wanted["distilled_from"]) == (20.0, {})
    assert bars.get_xlabel() == "accuracy on new classes of CIFAR-FS, %"
    assert bars.get_yticklabels()[0].get_text() == "FREE\n(a student)"
    assert any("7 trained" in text.get_text() for text in scene.texts)
    assert scene.images[0].get_array().shape == (16, 24, 3)


def test_an_accuracy_is_rounded_once(tmp_path):
    store = RecordStore(tmp_path / "records")
    store.put(images())
    store.put(made(Unit("table1", "free", "cifar-fs", 1, 0), TINY, [43.2504] * 6))
    wanted = overview.drawn(Evidence(TINY, store))
    bars = overview.overview_figure(images(), wanted).axes[1]
    assert "43.3" in [text.get_text() for text in bars.texts]  # of 43.25 it would be 43.2


def test_the_pool_shows_the_better_of_its_two_rows_and_the_student_what_it_learns_from(store):
    store.put(images())
    for centre, accuracy in (({}, 40.0), ({"centre": "none"}, 50.0)):
        store.put(made(Unit("table1", "pool_features", "cifar-fs", 1, 0, centre), TINY, [accuracy] * 6))
    store.put(made(Unit("table1", "pool_distillation", "cifar-fs", 1, 0), TINY, [60.0] * 6))
    wanted = overview.drawn(Evidence(TINY, store))
    bars = dict(zip(wanted["bars"]["method"], wanted["bars"]["accuracy"], strict=True))
    assert bars == {"free": 35.0, "pool_features": 50.0, "pool_distillation": 60.0}
    assert list(wanted["distilled_from"]) == ["recovered", "procedural", "mixtures"]
    assert sum(wanted["distilled_from"].values()) == pytest.approx(1)
    scene = overview.overview_figure(images(), wanted).axes[0]
    assert any("FREE learns from such images alone" in text.get_text() for text in scene.texts)

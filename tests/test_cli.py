import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from click.shell_completion import ShellComplete
from fake_methods import TINY, Drifting
from processes import start_command, start_python
from tiny_models import tiny_model
from tiny_notebooks import write_cells
from tiny_sources import write_images

from freelib import environment
from freelib.cli import FOLDER, main, table
from freelib.environment import torch_threads
from freelib.fast.threads import threads_at_work
from freelib.methods import METHODS
from freelib.models.pretrained import save_member
from freelib.run import evaluation
from freelib.run.reproduce import Outcome
from freelib.storage import plain

DRIFTING, GOES_ON = "fake_methods:Drifting", ": the same command goes on from what is saved"


def set_smoke(profile, tmp_path, monkeypatch):
    """Makes another profile the one called smoke."""
    (tmp_path / "profiles").mkdir(exist_ok=True)
    (tmp_path / "profiles" / "smoke.yaml").write_text(yaml.safe_dump(plain(profile)))
    monkeypatch.setattr("freelib.run.profiles.FOLDER", tmp_path / "profiles")


@pytest.fixture(autouse=True)
def tiny_smoke(tiny_world, tmp_path, monkeypatch):
    """The smoke profile is tiny."""
    set_smoke(TINY, tmp_path, monkeypatch)


HELP = """
import sys
from freelib.cli import main
for words in (["--help"], *([verb, "--help"] for verb in main.commands)):
    main(words, standalone_mode=False)
print({"torch", "pandas", "matplotlib", "papermill"} & set(sys.modules), file=sys.stderr)
"""


def test_help_is_quick_because_nothing_heavy_is_imported():
    out, err = start_python("-c", HELP).communicate()
    assert out.count("Usage: ") == 1 + len(main.commands)
    assert err == "set()\n"


def test_failures_and_debug(run, monkeypatch):
    words = ("train", "fake_methods:Drifting", "--out", "x", "--set", "fail_at=1")
    result = run(*words)
    assert (result.code, result.out) == (1, "")
    assert "told to fail in round 1" in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in run("--debug", *words).err

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("freelib.methods.describe_methods", interrupted)
    result = run("methods")
    assert (result.code, result.out, result.err) == (130, "", "freelib: interrupted\n")


def test_data(run):
    rows = json.loads(run("data", "list", "--json").out)
    assert [row["name"] for row in rows] == ["glyphs", "cifar-fs", "mini-imagenet", "cub"]
    assert rows[3] == {"name": "cub", "image_size": 84, "classes": {"train": 100, "validation": 50, "test": 50}}
    assert "100/50/50" in run("data", "list").out
    found = {row["name"]: row["found"] for row in json.loads(run("data", "status", "--json").out)}
    assert found == {"glyphs": True, "cifar-fs": True, "mini-imagenet": False, "cub": False}
    described = json.loads(run("data", "prepare", "cifar-fs", "--size", "16", "--json").out)
    assert [(s["classes"], s["images"], s["image_size"]) for s in described["splits"]] == [
        (64, 512, 16), (16, 128, 16), (20, 160, 16),
    ]  # fmt: skip
    assert "512" in run("data", "prepare", "cifar-fs", "--size", "16").out


def test_a_data_set_of_ones_own_goes_where_a_built_in_one_does(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    for k in range(5):
        write_images(tmp_path / "pictures", "{c}{i}/" + f"{k}.png")
    made = run("data", "add", "pets", "pictures", "--size", "16", "--split-seed", "1", "--json")
    assert [(s["classes"], s["images"]) for s in json.loads(made.out)["splits"]] == [(14, 70), (5, 25), (5, 25)]
    assert made.err == "class splits: drawn with seed 1\n"
    assert "pets" in run("data", "list").out
    assert str(tmp_path / "pictures") in run("data", "status").out
    assert '"pets"' in run("pool", "pretrain", "--dataset", "pets", "--folder", "p", "--json").out
    assert run("train", "random", "--dataset", "pets", "--select-on", "pets", "--pool", "p", "--out", "l").code == 0
    assert run("evaluate", "l", "--dataset", "pets", "--n-query", "3", "--episodes", "2").code == 0
    assert run("data", "remove", "pets").code == 0
    gone = run("evaluate", "l", "--dataset", "pets")
    assert (gone.code, "no data set is called 'pets'; known are glyphs" in gone.err) == (2, True)


def test_methods_and_tables(run):
    rows = json.loads(run("methods", "--json").out)
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(row["citation"] and row["needs"] for row in rows)
    assert "CVPR 2024" in run("methods").out
    assert json.loads(run("methods", "--fields", "free", "--json").out)["adapt_steps"] == 5
    rows = [{"a_b": 0.12345, "c": {"x": 1, "y": 2}, "d": 0}, {"a_b": None, "c": ["x", "y"], "d": 0}]
    lines = [line.split() for line in table(rows, "a_b", "c").splitlines()]
    assert lines == [["a", "b", "c"], ["0.123", "1/2"], ["None", "x,", "y"]]


def test_from_a_pool_to_an_accuracy(run, tmp_path):
    summary = json.loads(run("pool", "pretrain", "--folder", "p", "--json").out)
    assert (summary["models"], summary["domains"], summary["archs"]) == (2, ["cifar-fs"], ["conv4"])
    models = json.loads(run("pool", "show", "p", "--json").out)
    assert [len(model["class_names"]) for model in models] == [5, 5]
    assert models[0]["name"] in run("pool", "show", "p").out
    trained = run("train", "fake_methods:Drifting", "--pool", "p", "--out", "l", "--select-on", "cifar-fs", "--json")
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["selected_round"] in (2, 4)
    assert sorted(path.name for path in (tmp_path / "l").iterdir()) == ["learner.json", "learner.safetensors"]
    words = ["evaluate", "l", "--dataset", "cifar-fs", "--n-query", "3", "--episodes", "5"]
    assert run(*words).code == 2  # what a learner's file names is not imported unasked
    words.append("--allow-custom-method")
    value = json.loads(run(*words, "--json").out)
    assert (value["n_way"], value["n_shot"], value["n_episodes"], value["split"]) == (5, 1, 5, "test")
    assert 0 <= value["accuracy"] <= 100
    text = run(*words).out
    assert text.startswith(f"{value['accuracy']:.2f} ± {value['accuracy_ci95']:.2f} %")
    for _ in range(2):  # a learner of the same run may be there; and the profile's own pool serves as well
        again = run("train", "random", "--out", "m")
        assert again.code == 0, again.err
        assert "Random trained" in again.out
    (row,) = [r for r in json.loads(run("pool", "list", "--json").out) if r["digest"] == summary["digest"]]
    assert row["accuracy"] == summary["accuracy"] is not None


def test_a_method_in_the_folder_and_the_profiles_one_pool_for_all_seeds(run, tmp_path, monkeypatch):
    words = "from freelib.methods.random import Random\n\n\nclass Mine(Random):\n    title = 'Mine'\n"
    (tmp_path / "of_this_folder.py").write_text(words)
    trained = run("train", "of_this_folder:Mine", "--out", "l")
    assert trained.code == 0, trained.err
    assert "Mine trained" in trained.out
    set_smoke(replace(TINY, pool_seed=0), tmp_path, monkeypatch)
    for seed in ("0", "3"):
        assert run("train", "random", "--seed", seed, "--out", seed).code == 0
    first, second = (json.loads((tmp_path / seed / "learner.json").read_text()) for seed in ("0", "3"))
    assert first["pool_digest"] == second["pool_digest"]
    assert first["seed"] != second["seed"]


def test_the_shell_completes_verbs_options_and_choices():
    completion = ShellComplete(main, {}, "freelib", "_FREELIB_COMPLETE")

    def offered(line, begun):
        return [item.value for item in completion.get_completions(line.split(), begun)]

    assert offered("pool", "pre") == ["pretrain"]
    assert offered("train free --out x", "--min") == ["--minutes"]
    assert offered("train free --profile", "") == ["smoke", "cpu", "paper"]


def test_tensorboard_is_shown_what_a_training_logs(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train = ("train", "fake_methods:Drifting", "--out", "l", "--set", "rounds=2", "--tensorboard", "board")
    assert "pip install tensorboard" in run(*train).err
    writer = MagicMock()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    assert run(*train).code == 0
    writer.SummaryWriter.assert_called_once_with(Path("board"))
    told = writer.SummaryWriter.return_value.__enter__.return_value.add_scalar.call_args_list
    assert [(name, step) for name, _, step in (call.args for call in told)] == [("size", 1), ("size", 2)]


def test_training_and_evaluation_use_the_cores_as_a_runs_workers_do(run, monkeypatch):
    """One of torch's threads, an episode for each core, and freed memory kept."""
    seen, kept = [], []

    def spy(original):
        def call(*args, **kwargs):
            seen.append((torch.get_num_threads(), threads_at_work()))
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(Drifting, "train", spy(Drifting.train))
    monkeypatch.setattr(evaluation, "evaluate", spy(evaluation.evaluate))
    monkeypatch.setattr(environment, "keep_freed_memory", lambda: kept.append(1))
    with torch_threads(2):
        assert run("pool", "pretrain", "--folder", "p").code == 0
        assert run("train", DRIFTING, "--pool", "p", "--out", "l").code == 0
        words = ("--dataset", "cifar-fs", "--n-query", "3", "--episodes", "5", "--allow-custom-method")
        assert run("evaluate", "l", *words).code == 0
        assert torch.get_num_threads() == 2
    assert (seen, kept) == ([(1, 2)] * 2, [1] * 3)


def test_a_home_is_found_and_folders_of_the_environment_are_made_absolute(run, monkeypatch, tmp_path):
    """The kernels of notebooks run in another folder."""
    assert FOLDER.convert("~/x", None, None) == Path.home() / "x"
    (tmp_path / "d").mkdir()
    monkeypatch.setenv("FREELIB_DATA", "d")
    monkeypatch.setenv("FREELIB_CACHE", "c")
    assert run("data", "status").code == 0
    assert (os.environ["FREELIB_DATA"], os.environ["FREELIB_CACHE"]) == (f"{tmp_path}/d", f"{tmp_path}/c")


def test_what_a_file_says_is_shown_without_control_characters_and_damage_is_listed(run, tmp_path, monkeypatch):
    assert run("pool", "pretrain", "--folder", "p", "--set", "n_models=1").code == 0
    (file,) = (tmp_path / "p").glob("*.json")
    model = json.loads(file.read_text())
    model["class_names"][0] = "\x1b[2Jwhale\n"
    file.write_text(json.dumps(model))
    for words in (["show", "p"], ["show", "p", "--json"]):
        text = run("pool", *words).out
        assert "whale" in text
        assert "\x1b" not in text
        assert "whale\n" not in text
    outcome = Outcome("01_x", Path("results/01_\x1b[2J\n.ipynb"), None)
    monkeypatch.setattr("freelib.run.reproduce.execute_in_place", lambda *_, **__: [outcome])
    assert "\x1b" not in run("notebooks", "--in-place").out
    file.write_text(json.dumps(model | {"arch": "\x1b[2J"}))
    refused = run("pool", "show", "p")
    assert (refused.code, "\x1b" in refused.err) == (2, False)
    pools = tmp_path / "cache" / "pools"
    assert run("pool", "pretrain", "--folder", str(pools / "whole"), "--set", "n_models=1").code == 0
    (pools / "bad").mkdir()
    (pools / "bad" / "m.json").write_text("{")
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    listed = run("pool", "list")
    assert listed.code == 0
    _, bad, whole = listed.out.splitlines()
    assert "bad" in bad
    assert "damaged: " in bad
    assert "conv4" in whole
    assert [row["models"] for row in json.loads(run("pool", "list", "--json").out)] == [0, 1]


def test_reproduce_and_notebooks_pass_on_what_was_asked(run, monkeypatch, tmp_path):
    asked = {}
    outcomes = [Outcome("01_x", Path("kept.ipynb"), "ValueError: no"), Outcome("02_y", Path("y.ipynb"), None)]

    def reproduce(profile, only, **arguments):
        asked.update(arguments, profile=profile, only=only)
        return outcomes

    monkeypatch.setattr("freelib.run.reproduce.reproduce", reproduce)
    result = run("reproduce", "--dataset", "cub", "--shots", "1", "--shots", "5", "-p", "X=1e-3", "--notebook", "01_x")
    assert (result.code, result.out) == (1, "y.ipynb\n")
    assert "01_x: ValueError: no" in result.err
    assert "kept in kept.ipynb" in result.err
    assert asked["offered"] == {"DATASETS": ["cub"], "SHOTS": [1, 5]}
    assert (asked["required"], asked["only"], asked["profile"]) == ({"X": 0.001}, ("01_x",), "smoke")
    assert (asked["notebooks"], asked["results"]) == (Path("notebooks"), Path("results"))
    write_cells(tmp_path / "notebooks" / "01_x.ipynb", "N = 3")
    assert json.loads(run("notebooks", "--json").out) == [{"name": "01_x", "parameters": {"N": 3}}]
    assert "N=3" in run("notebooks").out
    outcome = Outcome("01_x", Path("notebooks/01_x.ipynb"), None)
    monkeypatch.setattr("freelib.run.reproduce.execute_in_place", lambda *_, **__: [outcome])
    done = run("notebooks", "--in-place", "01_x", "--json")
    assert (done.code, json.loads(done.out)) == (
        0,
        [{"notebook": "01_x", "path": "notebooks/01_x.ipynb", "error": None}],
    )


@pytest.mark.parametrize(
    ("words", "saved", "number"),
    [
        (f"train {DRIFTING} --pool p --out l --set rounds=1000 --set pause=0.1", "l/checkpoint-*.pt", signal.SIGTERM),
        ("pool pretrain --dataset cifar-fs --folder q --set n_models=1000", "q/*.json", signal.SIGINT),
        ("reproduce", "notebooks/begun", signal.SIGINT),
        ("reproduce", "notebooks/begun", signal.SIGTERM),
    ],
)
def test_a_signal_leaves_what_is_saved_and_no_process(run, monkeypatch, tmp_path, words, saved, number):
    save_member(tiny_model(), tmp_path / "p")
    parameters, body = 'PROFILE = "smoke"\nRESULTS = "../results"', "open('begun', 'w')\nimport time\ntime.sleep(60)"
    write_cells(tmp_path / "notebooks" / "01_x.ipynb", parameters, body)
    monkeypatch.setenv("FREELIB_WORKERS", "2")
    process = start_command(words)
    while not [*tmp_path.glob(saved)]:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)  # ends when the last of its processes has closed standard error
    begun = "[1/1] 01_x.ipynb\n" if words == "reproduce" else ""
    assert (process.returncode, err) == (128 + number, f"{begun}freelib: interrupted{GOES_ON}\n")
    assert [*tmp_path.glob(saved)]
    assert not (tmp_path / "results").exists()  # no half notebook

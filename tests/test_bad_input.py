"""Bad input: command lines, files, settings and calls, each with what its one sentence says."""

import json
import os
import shlex
import shutil
import sys
from dataclasses import replace
from functools import partial
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from fake_methods import TINY
from methods.small_methods import small, trainer
from tiny_models import conv_learner, own, rng, tiny_model, tiny_pool
from tiny_notebooks import write_cells
from tiny_sources import write_images
from torch import nn

from freelib import FewShotClassifier, evaluate, meta_train
from freelib.cli import main
from freelib.datasets import load_dataset
from freelib.datasets.episodes import EpisodeSampler, check_labels, checked_images, images_to_float
from freelib.generator import Generator
from freelib.inversion import InversionConfig
from freelib.memory import TaskMemory
from freelib.methods import get_method
from freelib.methods.base import MethodConfig
from freelib.methods.bidf_mkd import BidfMkdConfig
from freelib.methods.black_box import black_box_model
from freelib.methods.dro import DroConfig
from freelib.methods.free import FreeConfig
from freelib.methods.oracles import OracleConfig, OracleProtonetConfig
from freelib.methods.ota import OtaConfig
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.methods.prototypes import PoolFeaturesConfig, PoolOpinionsConfig
from freelib.methods.purer import PurerConfig
from freelib.methods.tgr import TgrConfig
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool
from freelib.models.pretrained import save_member
from freelib.models.pretraining import PoolConfig, pretrain_model, pretrain_pool
from freelib.run.execute import run_units
from freelib.run.learners import save_learner
from freelib.run.profiles import get_profile
from freelib.run.statistics import compare
from freelib.run.units import Unit, unit_config
from freelib.storage import Checkpoint, plain, save_tensors

NAN, INF, HUGE = float("nan"), float("inf"), 10**12
TRAIN, PRETRAIN, NOTEBOOK = "train free --out x --set", "pool pretrain --folder x --set", "notebooks/01_work.ipynb"

COMMANDS = {
    "nonsense": "No such command",
    "evaluate nowhere": "there is no learner in nowhere",
    "train average --out l": "l holds the learner of a run with another method",
    "train random --out l --seed 1": "l holds the learner of a run with another seed",
    "train random --out l --n-shot 5": "l holds the learner of a run with another config",
    "pool pretrain --folder x --seed 2147483648": "A seed is a whole number from 0 to 2147483647",
    "reproduce --profile huge": "is not one of",
    "data prepare glyphs --download": "download=True is for cifar-fs",
    "train random --out x --set turns=3": "method random has no field turns",
    f"{TRAIN} rounds=": "rounds is a whole number, got None",
    f"{TRAIN} rounds=-1": "rounds must be at least 0",
    f"{TRAIN} rounds={'9' * 33}": "rounds must be at most 10000000",
    f"{TRAIN} rounds={'9' * 5000}": "Exceeds the limit",
    f"{TRAIN} inner_steps={HUGE}": "inner_steps must be at most 4096",
    f"{TRAIN} 'rounds=*a'": "it has aliases",
    f"{TRAIN} rounds={'[' * 5000}": "it has too many brackets",
    f"{TRAIN} 'rounds={'- ' * 5000}1'": "it is nested too deeply",
    f"{TRAIN} inner_lr=1e999": "inner_lr must be finite",
    f"{TRAIN} inner_lr=fast": "inner_lr is a number, got 'fast'",
    f"{TRAIN} second_order=tru": "second_order is true or false, got 'tru'",
    f"{TRAIN} head=foo": "head is one of",
    f"{TRAIN} precision=float16": "precision is one of",
    f"{TRAIN} device=quatsch": "device is 'quatsch', which torch does not find",
    f"{TRAIN} device=cuda:99": "device is 'cuda:99', which torch does not find",
    f"{PRETRAIN} models=3": "PoolConfig has no field models",
    f"{PRETRAIN} dataset=cub": "PoolConfig has no field dataset",
    f"{PRETRAIN} archs=[foo]": "archs are some of conv4",
    f"{PRETRAIN} archs=[1": "'[1' is no value in YAML",
    f"{PRETRAIN} n_models={HUGE}": "n_models must be at most 10000000",
    f"{PRETRAIN} n_way=65": "too few for 65-way models",
    f"{PRETRAIN} holdout=1.5": "holdout is a share",
    "reproduce -p DATASETS=[cub]": "has no parameter DATASETS",
    "reproduce -p FAIL=1": "FAIL is 1: Expected `bool`, got `int`, as in False",
    "reproduce -p PROFILE=cpu": "PROFILE is no parameter to be set here: use --profile",
    "reproduce -p RESULTS=/elsewhere": "use --results",
    "reproduce -p SHOTS=1": "SHOTS is 1: Expected `array`",
    "reproduce -p SHOTS=one": "SHOTS is 'one': Expected `array`",
    "reproduce -p SHOTS=[]": "length >= 1",
    "reproduce -p SHOTS=[0]": ">= 1",
    "reproduce -p SEEDS=[-1]": ">= 0",
    "reproduce -p SEEDS=[4294967296]": "<= 4294967295",
    "reproduce -p DATASETS=cub": "DATASETS is 'cub': Expected `array`",
    "reproduce -p DATASETS=[cub,nosuch]": "DATASETS has 'nosuch', expected some of cifar-fs, cub",
    "reproduce -p METHODS=[fere]": "Unknown method 'fere'",
}
"""Their exit status is 2."""
ALIKE = {
    "it is empty: name a folder": [
        "evaluate ''", "pool show ' '", "pool pretrain --folder ''", "train random --out ''",
    ],
    "No pool in nowhere": ["pool show nowhere", "train random --out x --pool nowhere"],
    "afile can't be written into": [
        "pool pretrain --folder afile/x", "train random --out afile/x", "reproduce --results afile/x",
    ],
    "Unknown method 'nonsense'": ["train nonsense --out x", "methods --fields nonsense"],
    "can't be imported": ["train no_such_module:Mine --out x", "train ./mine.py:Mine --out x"],
    "is a file": ["train random --out afile", "reproduce --results afile"],
    "cub is not in": ["train random --out x --dataset cub", "train random --out x --select-on cub"],
    "no data set is called 'omniglot'": ["train random --out x --dataset omniglot", "data prepare omniglot"],
    "too few for n_shot + n_query": [
        "train random --out x --select-on cifar-fs --n-shot 6", "train free --out x --select-on cifar-fs --n-shot 6",
    ],
    "is not in the range": [
        "train random --out x --n-shot 0", "train random --out x --seed -1", "train random --out x --seed 4294967296",
        "evaluate nowhere --seed 9223372036854775808", "reproduce --seeds -1", "reproduce --seeds 4294967296",
        "reproduce --shots 0", "evaluate nowhere --n-way 1", "evaluate nowhere --n-query 0",
        "evaluate nowhere --episodes 0", f"evaluate nowhere --episodes {HUGE}", "data prepare glyphs --size 4",
        "data prepare glyphs --size 1000000000",
    ],
    "is not a valid integer": ["train random --out x --n-shot five", "train random --out x --seed 0.5"],
    "there are no notebooks in nowhere": ["reproduce --notebooks nowhere", "notebooks --folder nowhere"],
    "no notebook 02_other": ["reproduce --notebook 02_other", "notebooks 02_other"],
    "expected field=value": ["train random --out x --set turns", "train random --out x --set =3"],
    "rounds is a whole number": [
        f"{TRAIN} rounds=0x10", f"{TRAIN} rounds=1:30", f"{TRAIN} rounds=1_000", f"{TRAIN} rounds=2026-01-01",
        f"{TRAIN} rounds=yes", f"{TRAIN} rounds=017", f"{TRAIN} rounds=1.5", f"{TRAIN} rounds=true",
    ],
    "Expected `int`, got": ["reproduce -p SHOTS=[0x1]", "reproduce -p SEEDS=[true]"],
    "width must be at most 4096": [f"{TRAIN} width=1000000", f"{PRETRAIN} width=1000000"],
    "is no value in YAML": [f"{TRAIN} 'rounds=[1'", f"{TRAIN} 'rounds=!!python/object/apply:os.mkdir [x]'"],
    "inner_lr must be at least 0": [f"{TRAIN} inner_lr=-1", f"{TRAIN} inner_lr=nan"],
}  # fmt: skip
"""Of the same kind, by what is said of several."""


PICTURES = {
    "adapt --learner l --support shown --query nowhere": "nowhere",
    "adapt --learner l --support shown --query l/learner.json": "learner.json is not a readable image",
    "adapt --learner nowhere --support shown --query shown": "no learner in nowhere",
    "adapt --learner l --support shown/ant --query shown": "ant is no support set",
    "adapt --learner l --support shown --query shown --reject 2": "reject is None or in",
    "export --learner l --support shown": "Missing option",
}
"""With pictures in `shown`, a folder a class."""


def deep(file):
    file.write_text('{"a": ' * 10**4 + "1" + "}" * 10**4)


def long(file):
    file.touch()
    os.truncate(file, 2**34)  # takes no room on the disk


def text(content, file):
    file.write_bytes(content)


KINDS = {
    "pipe": (os.mkfifo, "is no regular file"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "is no regular file"),
    "folder": (Path.mkdir, "is no regular file"),
    "deep": (deep, ""),
    "long": (long, "bytes, more than the"),
    "no UTF-8": (partial(text, b"\xff\xfe\x00"), "codec can't decode"),
    "empty": (partial(text, b""), ""),
    "cut": (partial(text, b'{"a": '), ""),
    "null": (partial(text, b"null"), ""),
    "list": (partial(text, b"[]"), ""),
}
FILES = {
    "l/learner.json": ("evaluate l", "does not describe a learner"),
    "p/m.json": ("pool show p", "is no JSON object"),
    NOTEBOOK: ("reproduce", "can't be read as a notebook"),
    "mine.yaml": (lambda: get_profile("mine.yaml"), "is no profile"),
}


def made(path, make):
    """A prepared file: made in the place of the one that is there."""
    file = Path(path)
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    make(file)


def changed(**changes):
    """A prepared learner: fields of its description changed, those of a dictionary one by one."""
    file = Path("l/learner.json")
    there = json.loads(file.read_text())
    file.write_text(
        json.dumps({**there, **{n: {**there[n], **v} if isinstance(v, dict) else v for n, v in changes.items()}})
    )


def weighted(value, name="learner.safetensors"):
    """A prepared learner: with other weights than it was saved with."""
    file = Path("l") / name
    weights = build_backbone("conv4", image_size=16, width=4, batch_stats=True).state_dict()
    changed(weights_digest=save_tensors(file, {n: torch.full_like(w, value) for n, w in weights.items()}))


SIZE, RULE = {"mean": [0.5], "std": [0.5], "image_size": 16}, "Expected `int` <= 4096"
LEARNERS = {
    "rule": ({"rule": 5}, "Expected `object`, got `int`"),
    "config": ({"config": None}, "Expected `object`, got `null`"),
    "kind": ({"kind": "zz"}, "Invalid enum value 'zz'"),
    "seed": ({"seed": True}, "Expected `int`, got `bool`"),
    "inner_steps": ({"rule": {"inner_steps": HUGE}}, "Expected `int` <= 4096"),
    "negative steps": ({"rule": {"inner_steps": -1}}, "inner_steps must be at least 0"),
    "inner_lr": ({"rule": {"inner_lr": -1.0}}, "inner_lr must be at least 0"),
    "centre": ({"rule": {"centre": "zz"}}, "centre is one of"),
    "precision": ({"rule": {"precision": "zz"}}, "precision is one of"),
    "field": ({"config": {"turns": 3}}, "method random has no field turns"),
    "width": ({"config": {"width": 10**6}}, "width must be at most 4096"),
    "memory": ({"config": {"width": 4096, "arch": "resnet18"}}, "weights, more than 268,435,456"),
    "other width": ({"config": {"width": 8}}, "the weights are not those of the network"),
    "device": ({"config": {"device": "zz"}}, "device is 'zz', which torch does not find"),
    "image_size": ({"images": {"image_size": 10**9}}, "image_size must be a whole number from 1 to 4096"),
    "negative size": ({"images": {"image_size": -3}}, "image_size must be a whole number from 1 to 4096"),
    "no images": ({"images": {"mean": None}}, "Expected `array`, got `null`"),
    "std": ({"images": {"std": [0.0, 0.2, 0.2]}}, "std must be a list of numbers above 0"),
    "channels": ({"images": {"std": [0.2]}}, "mean and std need one number for each channel"),
    "method": ({"method": "zz"}, "names 'zz', which is no method of freelib's"),
    "module": ({"method": "strange:Method"}, "names 'strange:Method', which is no method of freelib's"),
    "pool": ({"kind": "pool", "method": "best_teacher", "config": {"head": "prototypes"}}, "a pool that can't be read"),
    "weights": ({"weights_digest": "0" * 16}, "are of two runs"),
}
PROFILES = {
    "field": ("colour: red", "mine.yaml has no field colour"),
    "type": ("shots: five", "Expected `array`, got `str`"),
    "range": ("n_way: 1", "n_way must be at least 2"),
    "hexadecimal": ("n_episodes: 0x10", "n_episodes is a whole number, got '0x10'"),
    "bound": (f"n_episodes: {HUGE}", "n_episodes must be at most"),
    "threads": ("threads: 100000", "threads must be at most 4096"),
    "open": ("shots: [", "is no value in YAML"),
    "aliases": ("shots: &a [1]\nseeds: *a", "it has aliases"),
    "tag": ("shots: !!python/tuple [1]", "is no value in YAML"),
    "circle": ("experiments: {a: {extends: b}, b: {extends: a}}", "extends 'a', which is no section above it"),
    "path": ("name: ../x", "'../x' is no name of a file"),
}

SETTINGS = {
    "must be at least": [
        (MethodConfig, "n_query", 0), (MethodConfig, "n_way", 1), (MethodConfig, "width", 0),
        (MethodConfig, "inner_lr", -1.0), (MethodConfig, "inner_lr", NAN), (InversionConfig, "ngf", 0),
        (InversionConfig, "augment_padding", -1), (InversionConfig, "adapt_steps", 0), (FreeConfig, "rounds", -1),
        (FreeConfig, "replay_episodes", 0), (FreeConfig, "adapt_steps", 0), (FreeConfig, "scratch_steps", 0),
        (BidfMkdConfig, "adapt_steps", 0), (DroConfig, "round_steps", 0), (DroConfig, "meta_batch", 0),
        (DroConfig, "embedding_dim", 0), (DroConfig, "draws", -1), (PurerConfig, "episodes", 0),
        (PurerConfig, "meta_batch", 0), (PurerConfig, "n_query", 0), (PurerConfig, "icfil_images", 0),
        (PoolDistillationConfig, "lr", -1.0), (PoolDistillationConfig, "embedding", 0),
        (PoolDistillationConfig, "meta_batch", 0), (PoolDistillationConfig, "epochs", 0),
        (PoolDistillationConfig, "batch_size", 1), (PoolDistillationConfig, "mixed", -1),
        (PoolOpinionsConfig, "embedding", 0), (PoolOpinionsConfig, "procedural", 0),
        (PoolOpinionsConfig, "procedural", 1), (OracleConfig, "round_batches", 0),
        (OracleProtonetConfig, "meta_batch", 0), (PoolConfig, "n_models", 0), (PoolConfig, "n_way", 1),
        (PoolConfig, "width", -4), (TINY, "n_way", 1), (TINY, "n_episodes", 0), (TINY, "validation_episodes", 0),
        (TINY, "workers", 0), (FreeConfig, "replay_patience", -1), (TgrConfig, "replay_batches", -1),
    ],
    "must be at most": [
        (MethodConfig, "test_steps", HUGE), (FreeConfig, "rounds", 10**8), (FreeConfig, "z_dim", 5000),
        (PurerConfig, "icfil_steps", HUGE), (DroConfig, "rank", HUGE), (PoolConfig, "epochs", HUGE),
        (PoolDistillationConfig, "embedding", 5000), (TINY, "image_size", 10**9),
    ],
    "must be above 0": [
        (PoolDistillationConfig, "temperature", 0.0), (PoolOpinionsConfig, "temperature", 0.0),
        (PoolOpinionsConfig, "temperature", -1.0), (OtaConfig, "regularisation", 0.0), (DroConfig, "gamma", 0.0),
    ],
    "must be finite": [
        (MethodConfig, "inner_lr", INF), (FreeConfig, "lambda_bn", NAN), (FreeConfig, "generator_lr", NAN),
        (PoolConfig, "learning_rate", NAN), (DroConfig, "gamma", NAN), (DroConfig, "ascent_lr", INF),
        (PoolDistillationConfig, "student_whitening", INF), (PoolOpinionsConfig, "whitening", NAN),
    ],
    "is one of": [
        (MethodConfig, "head", "foo"), (MethodConfig, "arch", "foo"), (PoolOpinionsConfig, "head", "maml"),
        (PoolOpinionsConfig, "centre", "foo"), (PoolFeaturesConfig, "head", "maml"),
        (PoolFeaturesConfig, "centre", "foo"), (PoolConfig, "precision", "float16"), (OtaConfig, "transport", "foo"),
        (PoolDistillationConfig, "centre", "episodes"), (PoolDistillationConfig, "head", "maml"),
        (PoolDistillationConfig, "teach", "logits"), (BidfMkdConfig, "replay_scope", "far"),
        (FreeConfig, "alignment", "other"), (FreeConfig, "align_optimizer", "other"),
        (FreeConfig, "distillation", "other"), (FreeConfig, "replay_scope", "other"),
        (FreeConfig, "memory_tasks", "other"), (FreeConfig, "kd_heads", "other"), (FreeConfig, "recovery", "other"),
    ],
    "are some of conv4": [(PoolConfig, "archs", ()), (PoolConfig, "archs", ("conv4", "foo"))],
    "is a share between 0 and 1": [(PoolConfig, "holdout", 1.0)],
    "which torch does not find": [(MethodConfig, "device", "foo")],
    "needs a data set, a method, a seed": [(TINY, "seeds", ()), (TINY, "shots", (0, 1)), (TINY, "datasets", ())],
    "no method": [(TINY, "overrides", {"mymeth": {}}), (TINY, "overrides", {"free five": {}})],
}  # fmt: skip


def resnet(seed: int, size: int = 16):
    return tiny_model(seed, arch="resnet10", width=8, image_size=size, domain=str(size))


def called_conv4():
    """Someone else's network that says it is freelib's."""
    model = own(arch="conv4")
    model.module.width = 4
    return model


ONE, THREE_WAY = tiny_model(0), tiny_model(0, n_way=3)
FOUR, AS_RESNET = list(tiny_pool(4)), {"arch": "resnet10", "width": 8}
OWN = [own(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), arch="conv4", image_size=16)]
GRAY = [own(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), mean=(0.5,), std=(0.2,), image_size=16)]
NO_STATISTICS = "No model of the pool has a BatchNorm layer with running statistics: set la"
POOLS = [
    ("average", [ONE, resnet(1)], {}, "must be of one architecture"),
    ("ota", [ONE, resnet(1)], {}, "must be of one architecture"),
    ("average", [ONE, tiny_model(1, width=8)], {}, "must be of one architecture and width"),
    ("average", [ONE], AS_RESNET, "conv4 of width 4; the student is set to resnet10"),
    ("average", [ONE], {"width": None}, "conv4 of width 4; the student is set to conv4 of width 32"),
    ("dro", [ONE], AS_RESNET, "the student is set to resnet10"),
    ("average", [resnet(0, 32), resnet(1, 84)], AS_RESNET, "the pool has models for [32, 84] pixels"),
    ("ota", [resnet(0), resnet(1)], AS_RESNET, "OTA aligns conv4 only"),
    ("purer", [tiny_model(0, n_way=4)], {}, "4 classes, too few for n_way=5"),
    ("bidf_mkd", [THREE_WAY], {}, "A 5-way student can't be distilled from [3]-way models"),
    ("free", FOUR, {"n_way": 9, "kd_heads": "per_model"}, "the pool has 8 classes: set n_way=8"),
    ("free", FOUR, {"n_way": 6, "kd_heads": "per_model", "replay_scope": "within"}, "widest model has 5 classes"),
    ("free", FOUR, {"images_per_class": 3, "memory_batches": 1}, "memory_batches × images_per_class = 3"),
    ("bidf_mkd", FOUR, {"images_per_class": 2, "memory_batches": 1}, "n_shot + n_query = 4 images"),
    ("free", OWN, {"lambda_bn": 0.05, "kd_heads": "per_model"}, NO_STATISTICS),
    ("pool_distillation", OWN, {"procedural": 200}, NO_STATISTICS),
    ("purer", OWN, {}, NO_STATISTICS),
    ("bidf_mkd", OWN, {"n_way": 3, "lambda_bn": 0.05}, NO_STATISTICS),
    ("pool_distillation", GRAY, {"lambda_bn": 0.0}, "Procedural images have 3 channels, not 1: set procedural=0"),
    ("pool_opinions", GRAY, {}, "not 1, and pool_opinions knows no other images: take pool_features"),
    *((name, [called_conv4()], {}, "networks only, and own is another") for name in ("average", "ota", "dro")),
    ("pool_distillation", FOUR, {"recovered": 5, "procedural": 5}, "of 16 images, got 5 synthesised, 0 unlabelled and"),
    ("bidf_mkd", FOUR, {"black_box": True, "lambda_bn": 0.1}, "A black box shows no BatchNorm statistics"),
    ("bidf_mkd", FOUR, {"black_box": True, "precision": "bfloat16"}, "forward differences need float32"),
    ("oracle_maml", FOUR, {}, "oracle_maml learns from real images: give dataset="),
    ("oracle_maml", FOUR, {"precision": "bfloat16"}, "oracle_maml trains in float32, got precision='bfloat16'"),
]
DIVERGED = [
    *[("free", rate) for rate in ("align_lr", "align_inner_lr", "inner_lr", "replay_lr", "generator_lr")],
    *[("purer", "outer_lr"), ("bidf_mkd", "outer_lr"), ("bidf_mkd", "distill_lr"), ("dro", "lr")],
    *[("pool_distillation", "lr"), ("pool_distillation", "meta_lr"), ("oracle_maml", "lr")],
]

X, Y = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(5)


def adapted(*shown, head="maml", **settings):
    return conv_learner(head, **settings).adapt(*shown).predict(X)


def tampered(**changes):
    """A prepared state of a training, changed."""
    checkpoint = Checkpoint(Path("run.pt"))
    trainer("dro", tiny_pool(2))(checkpoint=checkpoint)
    state = checkpoint.load()
    checkpoint.save({**state, **{n: {**state[n], **v} if isinstance(v, dict) else v for n, v in changes.items()}})


def resumed(name="dro"):
    trainer(name, tiny_pool(2))(checkpoint=Checkpoint(Path("run.pt")))


def distilled():
    """A prepared state of a distillation, which is said to have more epochs than there are."""
    checkpoint = Checkpoint(Path("run.pt"))
    trainer("pool_distillation", tiny_pool(2))(checkpoint=checkpoint)
    checkpoint.save(checkpoint.load() | {"epochs": -1})


def pretrained(data, **settings):
    return pretrain_model(data, PoolConfig(epochs=1, width=4, **settings), seed=0, index=0)


def named(name):
    model = tiny_model(0)
    model.name = name
    return model


def classifier(head="prototypes"):
    return FewShotClassifier(conv_learner(head))


def pooled(*models):
    return ModelPool.from_models(models)


def linear(n=3, channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 8 * 8, n))


def infinite(**about):
    module = linear()
    nn.init.constant_(module[1].weight[0], INF)
    return own(module, **about)


def ran(unit, **changes):
    return run_units([unit], replace(TINY, **changes), "r")


RECORD = {"dataset": "cub", "method": "strange:Method", "n_shot": 1, "seed": 0}
NO_LAYER = own(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), arch="conv4")
ONE_CHANNEL = {"mean": (0.5,), "std": (0.2,), "name": "gray", "domain": "g"}
DRIFTING = Unit("t", "fake_methods:Drifting", "cifar-fs", 1, 3)
SHOTLESS = replace(DRIFTING, method="fake_methods:Shotless")
CALLS = {
    "seed -1": (lambda d: trainer("random", seed=-1)(), "A seed is a whole number from 0 to 4294967295, got -1"),
    "seed 2^32": (lambda d: trainer("random", seed=2**32)(), "from 0 to 4294967295, got 4294967296"),
    "seed of an oracle": (lambda d: trainer("oracle_maml", seed=-1, dataset=d)(), "got -1"),
    "seed of episodes": (lambda d: EpisodeSampler(d, seed=2**63), "got 9223372036854775808"),
    "seed of a unit": (lambda d: Unit("t", "free", "cub", 1, -1), "got -1"),
    "seed of a pool": (lambda d: pretrain_pool(d, PoolConfig(), "x", seed=2**31), "from 0 to 2147483647"),
    "selection": (lambda d: Unit("t", "free", "cub", 1, 0, selection="best"), "validation, last, test"),
    "profile": (lambda d: get_profile("huge"), "there is no profile 'huge'"),
    "profile's file": (lambda d: get_profile("nowhere.yaml"), "nowhere.yaml is missing"),
    "sample 0": (lambda d: tiny_pool(2).sample(0, torch.Generator()), "At least 1 model is drawn"),
    "sample -1": (lambda d: tiny_pool(2).sample(-1, torch.Generator()), "At least 1 model is drawn"),
    "member of another folder": (lambda d: ModelPool.load("p", names=["../l/learner"]), "is no name of a file"),
    "member of no name": (lambda d: ModelPool.load("p", names=[""]), "is no name of a file"),
    "member to another folder": (lambda d: save_member(named("../m"), Path("p")), "is no name of a file"),
    "record's method": (lambda d: compare([RECORD]), "import its module first, if you trust that code"),
    "too large": (lambda d: build_backbone("conv4", width=64, image_size=4096, n_way=4096), "weights, more than"),
    "size of a data set": (lambda d: load_dataset("glyphs", "test", size=10**9), "expected 1 to 4096 pixels"),
    "too small": (lambda d: build_backbone("conv4", image_size=12), "image_size must be at least 16, got 12"),
    "architecture": (lambda d: build_backbone("vgg"), "Unknown architecture 'vgg'; known are conv4"),
    "head": (lambda d: conv_learner("linear"), "maml, anil, prototypes, got 'linear'"),
    "centre": (lambda d: conv_learner("prototypes", centre="query"), "none, support, episode, got 'query'"),
    "precision": (lambda d: conv_learner(precision="float16"), "precision is one of"),
    "inner_lr": (lambda d: conv_learner(inner_lr=NAN), "inner_lr must be at least 0"),
    "steps": (lambda d: conv_learner().adapt(X, Y, steps=-1), "steps must be at least 0, got -1"),
    "shown int64": (lambda d: adapted(X.long(), Y), "uint8 in 0…255 or float in [0, 1], got a Tensor torch.int64"),
    "shown no pixels": (lambda d: adapted(torch.zeros(5, 3, 0, 0), Y), "(n, 3, H, W) here, got (5, 3, 0, 0)"),
    "shown gray": (lambda d: adapted(X[:, :1], Y), "(n, 3, H, W) here, got (5, 1, 16, 16)"),
    "shown channels last": (lambda d: adapted(X.permute(0, 2, 3, 1), Y), "got (5, 16, 16, 3)"),
    "shown bytes as floats": (lambda d: adapted(255 * X, Y), "Float images are in [0, 1], got values from"),
    "shown NaN": (lambda d: adapted(X * NAN, Y), "got values from nan to nan"),
    "shown with fewer labels": (lambda d: adapted(X, Y[:4]), "got 5 support images and labels (4,)"),
    "shown nothing": (lambda d: adapted(X[:0], Y[:0]), "0 support images and labels"),
    "int32": (lambda d: adapted(X, Y.int()), "(n,) int64; got 5 support images and labels (5,) torch.int32"),
    "one-hot": (lambda d: adapted(X, torch.eye(5)), "labels (5, 5) torch.float32"),
    "labels from 1": (lambda d: adapted(X, Y + 1), "Labels must lie in 0…4, got 1…5"),
    "labels from -1": (lambda d: adapted(X, Y - 1), "Labels must lie in 0…4, got -1…3"),
    "a gap": (lambda d: adapted(X[:3], Y[:3] * 2), "Labels 0…4 are expected without gaps"),
    "gap among prototypes": (lambda d: adapted(X[:2], Y[:2] * 2, head="prototypes"), "expected without gaps"),
    "few classes": (lambda d: trainer("oracle_maml", dataset=d.subset(range(4)))(), "too few for n_way=5"),
    "few classes of episodes": (lambda d: EpisodeSampler(d, n_way=11), "10 classes, too few for n_way=11"),
    "few images": (lambda d: EpisodeSampler(d, n_shot=10), ("24 images, too few for", "= 25")),
    "no shots": (lambda d: EpisodeSampler(d, n_shot=0), "at least 1, got 5, 0 and 15"),
    "no episode -1": (lambda d: EpisodeSampler(d, n_query=1).episode(-1), "there is no episode -1"),
    "take -1": (lambda d: EpisodeSampler(d, n_query=1).take(-1), "at least 0, got -1 and 0"),
    "no episodes": (lambda d: evaluate(conv_learner(), EpisodeSampler(d), 0), "at least 1, got 0"),
    "large integers": (lambda d: images_to_float(torch.tensor([255])), "uint8 in 0…255 or float", TypeError),
    # without the tests' own check of types
    "list of labels": (lambda d: unwrap(check_labels)(X, [0, 1]), ("Labels are a tensor", "got a list")),
    "NumPy labels": (lambda d: unwrap(check_labels)(X, Y.numpy()), ("Labels are a tensor", "a ndarray")),
    "NumPy images": (lambda d: unwrap(checked_images)(X.numpy(), 3), ("are a tensor", "got a ndarray float32")),
    "bytes to a model": (lambda d: ONE(X.mul(255).byte()), ("Images are (n, 3, H, W), float", "16) torch.uint8")),
    "gray to a model": (lambda d: ONE(X[:, :1]), "float in [0, 1], got (5, 1, 16, 16)"),
    "image to a model": (lambda d: ONE(X[0]), "float in [0, 1], got (3, 16, 16)"),
    "memory of nothing": (lambda d: TaskMemory(image_size=16, batches_per_class=0), "at least 1 batch a class, got 0"),
    "no directions": (lambda d: black_box_model(ONE, rng=rng(), directions=0), "directions must be at least 1"),
    "no step": (lambda d: black_box_model(ONE, rng=rng(), mu=0.0), "and mu above 0"),
    "generator of 30": (lambda d: Generator(30), "multiple of 4, got 30"),
    "a table's learner": (lambda d: classifier("maml").fit(X.flatten(1), Y), "Images are (n, 3, H, W) here, got (5, 7"),
    "no features": (lambda d: trainer("pool_features", pooled(NO_LAYER))(), "own has no f", TypeError),
    "a model diverges": (lambda d: pretrained(d, learning_rate=1e30), "lower learning_rate=1e+30", ArithmeticError),
    "adapting diverges": (lambda d: adapted(X, Y, inner_lr=1e30), "scores are not finite", ArithmeticError),
    "another's network": (lambda d: save_member(own(), Path("p")), "own is a custom module; a pool on disk holds only"),
    "as conv4": (lambda d: save_member(own(arch="conv4"), Path("p")), "own is a custom module; a pool on disk holds"),
    "pool of nothing": (lambda d: pooled(), "at least one model, got none"),
    "pool of one name": (lambda d: pooled(tiny_model(), tiny_model()), "a name of its own"),
    "pool of one class": (lambda d: pooled(own(), own(name="other")),
                          "own and other both have a class 'a'. Give each a domain"),
    "pool of two kinds": (lambda d: pooled(own(), own(linear(3, 1), **ONE_CHANNEL)), "not gray of 1 and own of 3"),
    "infinite": (lambda d: pooled(infinite()), "own: 1.weight is not finite"),
    "infinite conv4": (lambda d: pooled(infinite(arch="conv4")), "own: 1.weight is not finite"),
    "another shape": (lambda d: pooled(own(nn.Sequential(linear(), nn.Unflatten(1, (3, 1))))), "give (2, 3, 1), exp"),
    "no answer": (lambda d: pooled(own(linear(channels=1))), "own can't answer images"),
    "fewer classes": (lambda d: classifier().fit(X, list("abc")), "inconsistent numbers of samples"),
    "fit on an image": (lambda d: classifier().fit(X[0], ["a"]), "Images are (n, 3, H, W) here, got (3, 16, 16)"),
    "fit on bytes": (lambda d: classifier().fit(255 * X, list("abcde")), "Float images are in"),
    "fit on no file": (lambda d: classifier().fit(["nowhere.png"], ["a"]), "nowhere.png is"),
    "fit on numbers": (lambda d: classifier().fit(X, np.linspace(0, 1, 5)), "Unknown label type"),
    "no minutes": (lambda d: meta_train(tiny_pool(), minutes=0), "minutes must be above 0"),
    "minutes of free": (lambda d: meta_train(tiny_pool(), 1, "free"),
                        "minutes are for pool_distillation: free is sized by its settings"),
    "minutes and epochs": (lambda d: meta_train(tiny_pool(), 1, epochs=3), "minutes choose epochs"),
    "oracle": (lambda d: meta_train(tiny_pool(), method="oracle_maml"), "oracle_maml needs real images"),
    "no field": (lambda d: meta_train(tiny_pool(), rounds=3), "method pool_distillation has no field rounds"),
    "checks of 25": (lambda d: ran(DRIFTING, n_way=25), "validation split has 16 classes, too few"),
    "tests of 25": (lambda d: ran(replace(DRIFTING, selection="test"), n_way=25), "test split has 20 classes"),
    "6 shots": (lambda d: ran(replace(DRIFTING, n_shot=6)), "too few for n_shot"),
    "6 shots served as well": (lambda d: ran(SHOTLESS, shots=(1, 6)), "too few for n_shot"),
    "no field of a unit": (lambda d: ran(replace(DRIFTING, overrides={"turns": 1})), "turns"),
    "no data": (lambda d: ran(replace(DRIFTING, dataset="cub")), "cub", FileNotFoundError),
}  # fmt: skip


def case(name, call, words, error=ValueError, prepare=lambda: None):
    return pytest.param(prepare, call, error, words, id=name[:60])


def cases():
    """The one table: what is prepared, the command or call, the exit status or exception, words of its sentence."""
    yield from (case(words, words, said, 2) for words, said in COMMANDS.items())
    yield from (case(words, words, said, 2) for said, several in ALIKE.items() for words in several)
    pictures = partial(write_images, Path("shown"), "{c}/{i}.png")
    yield from (case(words, words, said, 2, pictures) for words, said in PICTURES.items())
    for path, (call, said) in FILES.items():
        for kind, (make, why) in KINDS.items():
            if (path, kind) != ("mine.yaml", "deep"):  # as YAML it stands below
                error = 2 if isinstance(call, str) else ValueError
                then = call if isinstance(call, str) else lambda d, call=call: call()
                yield case(f"{path} {kind}", then, (said, why), error, partial(made, path, make))
    for name, (changes, said) in LEARNERS.items():
        yield case(f"learner {name}", "evaluate l", said, 2, partial(changed, **changes))
    for value in (NAN, INF):
        yield case(f"learner of {value}", "evaluate l", "is not finite", 2, partial(weighted, value))
    overflow = partial(changed, rule={"inner_lr": 1e30})
    yield case("learner overflows", "evaluate l --dataset cifar-fs --n-query 3", "scores are not finite", 1, overflow)
    for name, (content, said) in PROFILES.items():
        write = partial(made, "mine.yaml", partial(text, f"datasets: [cub]\n{content}".encode()))
        yield case(f"profile {name}", lambda d: get_profile("mine.yaml", "a"), said, prepare=write)
    for said, settings in SETTINGS.items():
        for of, field, value in settings:
            call = partial(replace, of) if of is TINY else of
            name = f"{getattr(of, '__name__', 'Profile')} {field}={value}"
            yield case(name, lambda d, call=call, given={field: value}: call(**given), said)
    for name, models, settings, said in POOLS:
        call = partial(lambda n, m, s, d: get_method(n).meta_train(ModelPool.from_models(m), small(n, **s), seed=0),
                       name, models, settings)  # fmt: skip
        yield case(f"{name} {said}", call, said)
    for name, rate in DIVERGED:
        call = partial(lambda n, r, d: trainer(n, dataset=d, **{r: 1e30})(), name, rate)
        said = "Training diverged: after round", f"{rate}=1e+30"
        yield case(f"{name} diverges by {rate}", call, said, ArithmeticError)
    yield from (case(name, *of) for name, of in CALLS.items())
    for changes in ({"round": -1}, {"round": 99}, {"round": "2"}):
        tamper = partial(tampered, **changes)
        yield case(f"state {changes}", lambda d: resumed(), "is said to be of round", prepare=tamper)
    tamper = partial(tampered, parts={"student": {}})
    yield case("state of other parts", lambda d: resumed(), "does not fit this run", prepare=tamper)
    again = partial(resumed, "pool_distillation")
    yield case("state of epoch -1", lambda d: again(), "is said to be of round -1", prepare=distilled)


TABLE = list(cases())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a learner `l`, a pool `p`, a notebook, a file, and a module that says when it is imported."""
    folder = tmp_path_factory.mktemp("stored")
    config = unit_config(Unit("train", "random", "cifar-fs", 1, 0), TINY)
    about = {"method": "random", "config": config, "seed": 0, "pool": tiny_pool(1)}
    save_learner(get_method("random").meta_train(about["pool"], config, seed=0), folder / "l", **about)
    save_member(named("m"), folder / "p")
    write_cells(folder / NOTEBOOK, 'PROFILE = "smoke"\nRESULTS = "../results"\nSHOTS = None\nFAIL = False')
    (folder / "afile").write_text("mine")
    (folder / "strange.py").write_text("raise SystemExit('imported')")
    (folder / "smoke.yaml").write_text(yaml.safe_dump(plain(TINY)))
    return folder


@pytest.fixture
def here(stored, tmp_path, tiny_world, monkeypatch):
    """The current folder: a copy of the stored one, where the smoke profile is tiny."""
    shutil.copytree(stored, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("freelib.run.profiles.FOLDER", tmp_path / "here")
    for work in ("pretrain_model", "_train_in_processes"):
        monkeypatch.setattr(f"freelib.models.pretraining.{work}", lambda *_, **__: pytest.fail("a pool is pre-trained"))
    monkeypatch.setattr(sys, "path", list(sys.path))


def contents():
    return {path: path.lstat().st_size for path in Path().rglob("*") if not path.is_dir()}


def test_the_table_is_long():
    assert len(TABLE) >= 150


@pytest.mark.parametrize(("prepare", "call", "error", "words"), TABLE)
def test_bad_input_is_answered_by_one_sentence_and_leaves_nothing(here, tiny_dataset, prepare, call, error, words):
    prepare()
    before = contents()
    if isinstance(call, str):
        result = CliRunner().invoke(main, shlex.split(call))
        said = result.stderr
        assert (result.exit_code, result.stdout) == (error, ""), said
        assert said.count("\n") == 1 or "Error: " in said  # click shows the usage above
    else:
        with pytest.raises(error) as raised:
            call(tiny_dataset)
        said = str(raised.value)
    assert all(part in said for part in ([words] if isinstance(words, str) else words)), said
    assert "Traceback" not in said
    assert contents() == before
    assert "strange" not in sys.modules


def test_what_is_no_bad_input():
    assert DroConfig(gamma=INF).gamma == INF  # plain fusion
    assert MethodConfig(device="cuda:99").device == "cuda:99"  # of another machine: no error before it is used

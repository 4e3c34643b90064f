from dataclasses import replace

import pytest
import torch
from fake_methods import TINY

from freelib.experiments.scene import Scene

SMALL = replace(TINY, overrides={"*": {"width": 4}, "free": {"ngf": 4, "images_per_class": 2}})


def test_the_first_of_each_is_taken(tiny_world, tmp_path):
    scene = Scene.of(replace(SMALL, seeds=(4, 5)), results=tmp_path, shots=[5, 1])
    assert (scene.unit.dataset, scene.unit.n_shot, scene.unit.seed) == ("cifar-fs", 5, 4)
    assert (scene.config.n_shot, scene.config.ngf) == (5, 4)
    assert scene.store.root == tmp_path / "tiny" / "records"
    assert len(scene.pool) == 2
    with pytest.raises(ValueError, match="no profile 'huge'"):
        Scene.of("huge", results=tmp_path)


def test_a_warm_generator_has_taken_meta_steps(tiny_world, tmp_path):
    scene = Scene.of(SMALL, results=tmp_path)
    cold, warm = (scene.warm_generator(scene.rng(), rounds=n) for n in (0, 2))
    assert (cold.iterations, warm.iterations) == (
        0,
        2 * 2 * 5,
    )  # models, rounds, steps
    again = scene.warm_generator(scene.rng(), rounds=2)
    pairs = zip(warm.generator.parameters(), again.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    start = next(cold.generator.parameters())
    assert not torch.equal(start, next(warm.generator.parameters()))


def test_a_warm_generator_has_the_seed_and_the_precision_of_the_run(tiny_world, tmp_path):
    free = {**SMALL.overrides["free"], "precision": "bfloat16"}
    scenes = [
        Scene.of(SMALL, results=tmp_path),
        Scene.of(replace(SMALL, seeds=(1,), overrides={"*": {"width": 4}, "free": free}), results=tmp_path),
    ]
    first, other = (scene.warm_generator(scene.rng(), rounds=0) for scene in scenes)
    assert (first.bf16, other.bf16) == (False, True)
    assert not torch.equal(next(first.generator.parameters()), next(other.generator.parameters()))

"""Every method at a size that trains in a second."""

from dataclasses import fields
from functools import partial

import torch
from tiny_models import flat, rng, tiny_pool, weights

from freelib import MethodConfig, ModelPool, get_method
from freelib.methods.black_box import black_box_model

SMALL = {
    "width": 4, "n_query": 3, "inner_steps": 1, "test_steps": 2, "rounds": 3, "warmup_rounds": 1,
    "meta_batch": 2, "adapt_steps": 2, "images_per_class": 4, "z_dim": 8, "ngf": 4, "generator_lr": 0.01,
    "augment_padding": 1, "distill_steps": 1, "grouping_steps": 2, "groups": 2, "replay_episodes": 2,
    "replay_patience": 2, "replay_batches": 2, "round_steps": 2, "round_batches": 2, "episodes": 2, "recovered": 30,
    "procedural": 40, "mixed": 30, "epochs": 3, "batch_size": 16, "embedding": 12, "monitor_every": 1,
    "checkpoint_every": 1,
}  # fmt: skip
"""Fields of the methods' configs; those that one does not have are left out of it."""


def small(name: str, **settings) -> MethodConfig:
    """A method's config with the fields of `SMALL` that it has, and others as given."""
    config = get_method(name).Config
    known = {field.name for field in fields(config)}
    return config(**{key: value for key, value in SMALL.items() if key in known} | settings)


def trainer(name: str, pool=None, *, seed: int = 0, dataset=None, **settings):
    """A function (monitor=…, checkpoint=…) that trains a small method; dataset: what an oracle sees."""
    method, pool = get_method(name), pool or tiny_pool(4)
    more = {"dataset": dataset} if method.oracle else {}
    if method.images == "required":
        size = (40, pool.channels, pool.image_size, pool.image_size)
        more["images"] = torch.randint(0, 256, size, generator=rng(3), dtype=torch.uint8)
    return partial(method.meta_train, pool, small(name, **settings), seed=seed, **more)


def assert_same_run(found, expected) -> None:
    """Two learners have the same weights, bit for bit, and the same story."""
    assert torch.equal(weights(found), weights(expected))
    assert (found.last_params is None) == (expected.last_params is None)
    if expected.last_params is not None:
        assert torch.equal(flat(found.last_params.values()), flat(expected.last_params.values()))
    assert found.selected_round == expected.selected_round
    assert found.log.history == expected.log.history
    assert found.log.iterations == expected.log.iterations


class Api:
    """A model of which there is nothing but `__call__`: no weights, and no gradient comes back."""

    __slots__ = ("_model", "calls")

    def __init__(self, model) -> None:
        self._model, self.calls = model, 0

    def __call__(self, images):
        assert not images.requires_grad
        self.calls += 1
        with torch.no_grad():
            return self._model(images).clone()


def boxed(models) -> tuple[ModelPool, list[Api]]:
    """A pool of black boxes around some models, and what they call."""
    apis = [Api(model) for model in models]
    about = [{"class_names": m.class_names, "image_size": 16, "name": m.name, "domain": m.domain} for m in models]
    return ModelPool.from_models(black_box_model(a, rng=rng(0), **m) for a, m in zip(apis, about, strict=True)), apis

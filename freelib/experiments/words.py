"""The terms of `results/README.md` that a reader from outside may not know."""

from __future__ import annotations

from collections.abc import Iterator

from freelib.methods.free import FreeConfig
from freelib.run.profiles import Profile
from freelib.run.units import make_config

WORDS = {
    "Pool, teacher": "the pre-trained classifiers that are given without their data, and one of them.",
    "Best teacher": "the pool's model of the highest held-out accuracy: on images of its own classes that "
    "its training left out. The meta-test classes have no part in the choice.",
    "Recovered task": "images made so that a model puts them in its classes, as many in each.",
    "Pass": "one generation of a task's images, forward through the model and back. The last pass of a "
    "task is followed by no update: the *{passes} steps* of the meta-generator are {passes} passes and "
    "{updates} updates.",
    "Agreement": "share of a task's recovered images that the model puts in the class that they were made "
    "for. Chance is one in the number of its classes.",
    "Warm": "the meta-generator after training on other models. *From scratch*: a new generator, with random "
    "weights, for each model.",
    "Held-out models": "models of the pool that the meta-generator never met in its training.",
    "Head": "a network's last layer, from features to classes.",
    "Sweep": "one step of distillation on tasks of several models: the first of a round on its new tasks, "
    "the others on tasks from the memory.",
}


def glossary(profile: Profile) -> Iterator[str]:
    """A line a term."""
    config = make_config("free", profile.method_fields("free"))
    assert isinstance(config, FreeConfig)
    steps = {"passes": config.adapt_steps, "updates": config.adapt_steps - 1}
    yield from ("## Words", "")
    yield from (f"- *{word}*: {text.format(**steps)}" for word, text in WORDS.items())
    yield ""

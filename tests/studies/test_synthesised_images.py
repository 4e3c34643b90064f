import base64

import pytest
import torch
from tiny_models import flat, rng, tiny_pool

from freelib.methods.free import FreeConfig
from studies import synthesised_images as study

CONFIG = FreeConfig(ngf=4, images_per_class=3, meta_batch=2, n_way=5)


def test_a_warm_generator_has_met_models():
    cold, warm, again = (study.warm_generator(tiny_pool(), CONFIG, rng(), seed=0, rounds=n) for n in (0, 2, 2))
    other = study.warm_generator(tiny_pool(), CONFIG, rng(), seed=1, rounds=0)
    cold, warm, again, other = (flat(each.generator.parameters()) for each in (cold, warm, again, other))
    assert torch.equal(warm, again)
    assert not torch.equal(cold, other)
    # each of the two outer steps of Adam moves a weight by at most about its rate
    assert 0 < float((warm - cold).abs().max()) < 2.5 * CONFIG.meta_lr


@pytest.mark.parametrize(("n", "names"), [(2, [0, 2]), (3, [0, 1, 3]), (9, [0, 1, 2, 3, 4])])
def test_models_at_even_steps(n, names):
    assert [model.name for model in study.evenly(tiny_pool(5), n)] == [f"tiny-conv4-000{i}" for i in names]


def test_tasks_start_from_one_noise():
    updates = (0, 1, 4)
    none, one, four = tasks = study.tasks_after(tiny_pool(3), CONFIG, updates, seed=0)
    assert len({task.model.name for task in tasks}) == 1
    assert [len(task.losses) for task in tasks] == [1, 2, 5]
    assert torch.equal(one.losses, four.losses[:2])
    # one update of Adam moves each weight by at most its rate: the images are near, but not the same
    assert 0 < float((none.images - one.images).abs().max()) < 0.5
    values = study.accuracy_after(tasks, updates)
    with torch.no_grad():
        right = four.model(four.images).argmax(1) == four.labels
    assert values["agreement"][-1] == pytest.approx(float(right.float().mean()))
    assert values["loss"] == [float(task.losses[-1]) for task in tasks]
    assert values["passes"] == 1 + 2 + 5


def test_an_image_of_each_class_of_some_models():
    pool = tiny_pool(4)
    values = study.one_image_per_class(pool, CONFIG, seed=0, models=2)
    assert values["models"] == ["tiny-conv4-0000", "tiny-conv4-0002"]
    assert values["class_names"] == [list(pool[i].class_names) for i in (0, 2)]
    assert values["passes"] == 5 * (5 * 2 + 2)  # iterations × (rounds × models a round + models)
    draws = rng()
    generator = study.warm_generator(pool, CONFIG, draws, seed=0)
    tasks = [generator.adapt(pool[i], None, draws) for i in (0, 2)]
    images = torch.stack([task.images[:: CONFIG.images_per_class] for task in tasks])
    found = study.images_of(base64.b64decode(values["png"]), 2)
    assert float((found / 255 - images).abs().max()) <= 0.51 / 255
    rows = torch.randint(0, 256, (2, 3, 3, 8, 8), generator=rng())
    assert torch.equal(study.images_of(study.png(list(rows / 255)), 2), rows.to(torch.uint8))

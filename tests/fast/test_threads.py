"""Threads give the bits of one episode after the other, whatever their number."""

import threading
from functools import partial

import pytest
import torch
from tiny_models import conv_learner, flat, random_episode, rng, tiny_model

from freelib.alignment import DistillationHeads
from freelib.datasets.episodes import Episode
from freelib.fast import adapt_each, episode_threads, maml_step, student_for, threads
from freelib.generator import MetaGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig
from freelib.replay import maml_step as plain_maml_step

learner = partial(conv_learner, width=8, inner_lr=0.1)


def episodes(n: int) -> list[Episode]:
    return [random_episode(seed=i) for i in range(n)]


@pytest.mark.parametrize(("head", "arch"), [("maml", "conv4"), ("anil", "conv4"), ("maml", "resnet10")])
@pytest.mark.parametrize("second_order", [True, False])
def test_training_has_the_same_bits(head, arch, second_order):
    found = []
    for n in (1, 3):
        student = learner(head, arch)
        optimizer = torch.optim.Adam(student.params.values(), lr=0.01)
        with episode_threads(n):
            results = [maml_step(student, episodes(7), optimizer, steps=2, second_order=second_order) for _ in range(2)]
        found.append([*torch.tensor(results), *student.params.values()])
    for one, several in zip(*found, strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize("head", ["maml", "anil", "prototypes"])
def test_an_outer_step_is_the_plain_one(head):
    found = []
    for step in (maml_step, plain_maml_step):
        student = learner(head)
        optimizer = torch.optim.SGD(student.params.values(), lr=0.1)
        found.append([*step(student, episodes(3), optimizer, steps=2), flat(student.params.values())])
        assert all(p.grad is None for p in student.params.values())
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_a_learner_keeps_a_loss_of_its_own():
    class Doubled(MetaLearner):
        def query_loss(self, *args, **settings):
            loss, accuracy = super().query_loss(*args, **settings)
            return 2 * loss, accuracy

    student = learner()
    own = Doubled(student.backbone, mean=(0.5,) * 3, std=(0.25,) * 3, image_size=16, inner_lr=0.1)
    still = torch.optim.SGD(student.params.values(), lr=0.0)
    once, twice = (maml_step(each, episodes(2), still, steps=2)[0] for each in (student, own))
    assert twice == pytest.approx(2 * float(once), rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kd_heads", ["shared", "per_model"])
def test_synthesis_has_the_same_bits(precision, kd_heads):
    models = [tiny_model(i) for i in range(3)]
    found = []
    for n in (1, 2):
        config = InversionConfig(ngf=2, z_dim=4, images_per_class=2, adapt_steps=3, lambda_bn=0.05)
        generator = MetaGenerator(config, image_size=16, precision=precision)
        n_ways = {m.name: m.n_way for m in models} if kd_heads == "per_model" else None
        heads, draw = DistillationHeads(learner(), n_ways), rng(3)
        generator.adapt(models[0], None, draw)  # a gradient that is there already stays in the sum
        students = [student_for(heads, model) for model in models]
        with episode_threads(n):
            rounds = [synthesise_round(generator, models, draw, students, adapt_each=adapt_each) for _ in range(2)]
        tasks = [task for each in rounds for task in each]
        assert [task.model for task in tasks] == models * 2
        assert generator.iterations == 21
        rows = [x for t in tasks for x in (t.images, t.teacher_logits, t.losses, t.teacher_accuracies)]
        found.append([*rows, draw.get_state(), *generator.generator.parameters()])
    for one, several in zip(*found, strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize(("numbers", "parties"), [((0, 1), 2), ((0, 0), 1), ((0, 2), 1)])
def test_models_are_inverted_at_once_unless_they_share_layers(monkeypatch, numbers, parties):
    barrier, adapt = threading.Barrier(parties, timeout=20), MetaGenerator.adapt

    def met(self, *arguments):
        barrier.wait()
        return adapt(self, *arguments)

    monkeypatch.setattr(MetaGenerator, "adapt", met)
    config = InversionConfig(ngf=2, z_dim=4, images_per_class=2, adapt_steps=1)
    models = [tiny_model(i) for i in range(3)]
    models[2].module.encoder = models[0].module.encoder
    generator = MetaGenerator(config, image_size=16)
    with episode_threads(2):
        synthesise_round(generator, [models[i] for i in numbers], rng(), adapt_each=adapt_each)


def predictions(student: MetaLearner) -> torch.Tensor:
    def predict(own: MetaLearner, task: Episode) -> torch.Tensor:
        return own.adapt(task.support, task.support_labels).logits(task.query)

    return torch.stack(list(threads.in_threads(student, predict, episodes(9))))


def test_predictions_have_the_same_bits_and_come_in_order(monkeypatch):
    monkeypatch.setattr(threads, "AHEAD", 2)  # three rounds of four, of nine episodes
    alone = predictions(learner())
    with episode_threads(2):
        assert torch.equal(predictions(learner()), alone)
    assert len({tuple(logits.flatten().tolist()) for logits in alone}) == 9
    model, images = tiny_model(), torch.rand(3, 3, 16, 16, generator=rng())
    heads = DistillationHeads(learner(), {model.name: 5})
    assert torch.equal(student_for(heads, model)(images), heads.logits(images, model))


def meeting(parties: int):
    """Work that ends only when so many threads are at it at once."""
    barrier = threading.Barrier(parties, timeout=20)

    def work(own: MetaLearner, _: int) -> tuple[int, bool]:
        barrier.wait()
        return id(own.backbone), torch.is_grad_enabled()

    return work


def test_each_thread_has_modules_of_its_own_and_gradients_as_the_caller_has_set_them():
    student = learner()
    with torch.no_grad(), episode_threads(2):
        found = list(threads.in_threads(student, meeting(2), range(2)))
    assert len({module for module, _ in found} | {id(student.backbone)}) == 3
    assert [gradients for _, gradients in found] == [False, False]
    own = threads.with_own_modules(student)
    assert own.backbone is not student.backbone
    assert all(a is b for a, b in zip(own.params.values(), student.params.values(), strict=True))
    calibrated = CalibratedLearner(learner(), InversionConfig(), CalibrationConfig())
    with episode_threads(2):
        modules = {module for module, _ in threads.in_threads(calibrated, meeting(1), range(3))}
    assert modules == {id(calibrated.backbone)}

    def work(_: MetaLearner, item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with episode_threads(2), pytest.raises(ValueError, match="three"):
        list(threads.in_threads(learner(), work, range(5)))


def test_the_number_of_threads_holds_within_its_body_alone():
    alone = threads.threads_at_work()
    with episode_threads(3):
        with episode_threads(2):
            assert threads.threads_at_work() == 2 * alone
        assert threads.threads_at_work() == 3 * alone
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(threads.threads_at_work()))
        thread.start()
        thread.join()
    assert [*elsewhere, threads.threads_at_work()] == [alone, alone]
    with pytest.raises(ValueError, match="at least 1 thread, got 0"), episode_threads(0):
        pass

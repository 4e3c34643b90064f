"""What holds for any input: round trips, no image in support and query, no class outside its split."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from reliability import EXAMPLES, keep
from tiny_models import rng, tiny_model
from tiny_sources import png, write_parquet

from freelib.datasets import FewShotDataset
from freelib.datasets.cache import load_cached
from freelib.datasets.episodes import EpisodeSampler
from freelib.datasets.own import draw_splits, read_splits
from freelib.datasets.sources import source_at
from freelib.generator import SynthesisedTask
from freelib.memory import TaskMemory
from freelib.run.records import KEYED, RecordStore, complete

pytestmark = pytest.mark.long
checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
examples = settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=checks, database=None)
names = st.text(st.characters(categories=["L", "N"], include_characters="_-"), min_size=1, max_size=12)
seeds, few = st.integers(0, 2**32 - 1), st.integers(1, 4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
held: Counter = Counter()


@pytest.fixture(autouse=True)
def counted(request):
    yield
    keep("properties", dict(held))


def marked(c, number):
    """An image that says its class and its number."""
    return torch.tensor([c, number // 256, number % 256], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)


def check_episode(episode, n_way, n_shot, n_query):
    """All images are different, and each label is one class of its own; gives the images' numbers."""
    found = [(images.mul(255).round().long()[:, :, 0, 0], labels) for images, labels in
             ((episode.support, episode.support_labels), (episode.query, episode.query_labels))]  # fmt: skip
    marks, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert len(marks.unique(dim=0)) == len(marks) == n_way * (n_shot + n_query)
    classes = {(int(label), int(mark[0])) for label, mark in zip(labels, marks, strict=True)}
    assert len(classes) == len(dict(classes)) == len(set(dict(classes).values())) == n_way
    return (256 * marks[:, 1] + marks[:, 2]).tolist()


@examples
@given(st.lists(st.integers(2, 9), min_size=2, max_size=8), st.data(), seeds, st.integers(0, 2**40))
def test_episodes_of_a_sampler(counts, data, seed, i):
    n_way, n_shot = data.draw(st.integers(1, len(counts))), data.draw(st.integers(1, min(counts) - 1))
    n_query = data.draw(st.integers(1, min(counts) - n_shot))
    images = torch.stack([marked(c, k) for k, c in enumerate(c for c, n in enumerate(counts) for _ in range(n))])
    offsets, class_names = tuple(np.cumsum([0, *counts]).tolist()), tuple(map(str, range(len(counts))))
    about = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "digest": "0123456789abcdef"}
    dataset = FewShotDataset("drawn", "test", images, offsets, class_names, **about)
    first, again = (
        EpisodeSampler(dataset, n_way=n_way, n_shot=n_shot, n_query=n_query, seed=seed).episode(i) for _ in range(2)
    )
    check_episode(first, n_way, n_shot, n_query)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    held["sampler"] += 1


@examples
@given(st.lists(names, min_size=3, max_size=8, unique=True), seeds, st.sampled_from("\t,"))
def test_classes_stay_in_their_split(tmp_path_factory, classes, seed, separator):
    folder, splits = tmp_path_factory.mktemp("drawn"), draw_splits(classes, seed)
    (folder / "splits").write_text("".join(f"{splits[c]}{separator}{c}\n" for c in classes), encoding="utf-8")
    assert read_splits(folder / "splits", classes) == splits
    colours = {c: (20 * i, 255 - 20 * i, 7) for i, c in enumerate(classes)}
    pictures = {c: Image.new("RGB", (8, 8), colours[c]) for c in classes}
    for picture in pictures.values():
        picture.paste((7, 7, 250), (4, 4, 8, 8))
    rows = [{"image": png(pictures[c]), "label": c} for c in classes for _ in range(2)]
    write_parquet(folder / "drawn.parquet", rows)
    lists = {split: tuple(c for c in classes if splits[c] == split) for split in ("train", "validation", "test")}
    for split, expected in lists.items():
        found = load_cached(source_at("drawn", folder / "drawn.parquet", lists), split, 8, folder)
        assert found.class_names == expected
        assert all(
            (found.class_images(i)[:, :, 0, 0] == torch.tensor(colours[c])).all() for i, c in enumerate(expected)
        )
    held["splits"] += 1


models = [tiny_model(i, first_class=i, n_way=3) for i in range(4)]


@examples
@given(st.lists(st.tuples(st.integers(0, 3), few), min_size=1, max_size=8), few, few, few, few, seeds, st.booleans())
def test_episodes_of_a_memory(tasks, batches, n_way, n_shot, n_query, seed, within):
    memory, again = (TaskMemory(image_size=16, batches_per_class=batches) for _ in range(2))
    numbers, scope, nothing = {}, "within" if within else "cross", torch.empty(0)
    for member, per_class in tasks:
        labels = torch.arange(3).repeat_interleave(per_class)
        first = len(numbers)
        images = [marked(member + int(c), first + k) for k, c in enumerate(labels)]
        numbers |= {first + k: member for k in range(len(labels))}
        memory.add([SynthesisedTask(torch.stack(images) / 255, labels, models[member], nothing, nothing)])
    again.load_state_dict(memory.state_dict())
    size = (n_way, n_shot, n_query)
    if memory.ready(*size, scope=scope):
        episodes = [m.episode(*size, rng(seed), scope=scope) for m in (memory, again)]
        assert all(torch.equal(*pair) for pair in zip(*(vars(e).values() for e in episodes), strict=True))
        members = {numbers[number] for number in check_episode(episodes[0], *size)}
        assert len(members) == 1 or not within
    held["memory"] += 1


@examples
@given(st.dictionaries(st.text(), json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4), seeds)
def test_records_come_back(tmp_path_factory, config, extra, seed):
    store = RecordStore(tmp_path_factory.mktemp("records"))
    words = dict.fromkeys(("experiment", "method", "dataset", "freelib_version", "python", "torch", "started"), "x")
    about = dict.fromkeys(KEYED) | words | {"method_revision": 1, "seed": seed, "config": config}
    record, other = complete(about | {"extra": extra}), complete(about | {"extra": {"other": extra}})
    store.put(record)
    assert store.all() == [store.get(record["config_digest"])] == [record]
    assert record["config_digest"] == other["config_digest"] != complete(about | {"seed": seed + 1})["config_digest"]
    held["records"] += 1

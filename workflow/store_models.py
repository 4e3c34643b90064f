"""Stores a pool or a learner in results/models: weights as bfloat16, and a card with what that costs in accuracy.

    python workflow/store_models.py FOLDER NAME --dataset cifar-fs

Then `ModelPool.load(NAME)`, or `load_learner(NAME)`, finds it in every folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from freelib import EpisodeSampler, FewShotDataset, ModelPool, evaluate, load_dataset, load_learner
from freelib.folders import MODELS
from freelib.run import mean_and_interval, paired_difference
from freelib.storage import load_tensors, save_tensors, write_atomically

EPISODES, N_QUERY, PER_CLASS = 600, 15, 100


def store(folder: Path, out: Path) -> None:
    """Copies the cards in a folder, and their weights as bfloat16."""
    for card in sorted(folder.glob("*.json")):
        about, weights = json.loads(card.read_text()), load_tensors(card.with_suffix(".safetensors"))
        smaller = {name: value.bfloat16() if value.is_floating_point() else value for name, value in weights.items()}
        about["weights_digest"] = save_tensors(out / card.with_suffix(".safetensors").name, smaller)
        if "pool" in about:
            about["pool"] = None  # a folder of this machine
        write_atomically(out / card.name, json.dumps(about, indent=1).encode() + b"\n")


@torch.no_grad()
def member_accuracies(pool: ModelPool, data: FewShotDataset) -> Tensor:
    """Accuracy of each member on the first images of its own classes, in percent."""
    found = []
    for model in pool:
        parts = [data.class_images(data.class_names.index(name))[:PER_CLASS] for name in model.class_names]
        labels = torch.cat([torch.full((len(part),), c) for c, part in enumerate(parts)])
        answers = torch.cat([model(part.float() / 255).argmax(1) for part in parts])
        found.append(100 * (answers == labels).double().mean())
    return torch.stack(found)


def accuracies(folder: Path, dataset: str) -> tuple[str, Tensor]:
    """What is measured of a learner, on test episodes, or of a pool, on training images; percentages."""
    if (folder / "learner.json").exists():
        learner = load_learner(folder)
        test = load_dataset(dataset, "test", size=learner.transform.image_size)
        score = evaluate(learner, EpisodeSampler(test, n_way=5, n_shot=5, n_query=N_QUERY, seed=1), EPISODES)
        return f"5-way 5-shot accuracy on {EPISODES} episodes of {dataset}, test, %", score.accuracies
    pool = ModelPool.load(folder)
    known = member_accuracies(pool, load_dataset(dataset, "train", size=pool.image_size))
    return f"accuracy of {len(pool)} models on images of {dataset} they were trained on, %", known


def main(arguments: list[str] | None = None) -> None:
    """Stores a folder, tries both, and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--dataset", default="cifar-fs")
    given = parser.parse_args(arguments)
    out = MODELS / given.name
    store(given.folder, out)
    (what, full), (_, half) = (accuracies(folder, given.dataset) for folder in (given.folder, out))
    rows = {"float32": mean_and_interval(full), "bfloat16, as stored": mean_and_interval(half)}
    rows["difference, paired"] = paired_difference(half, full)
    table = "\n".join(f"|{name}|{mean:.2f} ± {interval:.2f}|" for name, (mean, interval) in rows.items())
    size = sum(file.stat().st_size for file in out.iterdir()) / 2**20
    text = f"# {given.name}\n\n|{what}|{size:.1f} MiB|\n|---|---|\n{table}\n"
    sys.stdout.write(text)
    write_atomically(out / "README.md", text.encode())


if __name__ == "__main__":
    main()

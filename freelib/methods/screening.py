"""Which members of a pool can be trusted: each is run, and held against the rest. No data is needed.

After the two poisonings of Hu et al., Task-distributionally robust data-free meta-learning, arXiv 2311.14756:
models trained on something else than they name, and models with an accuracy that they do not have. Their remedy
is a weight for each model, learned while training; here members are judged once, before any method is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.generator import MetaGenerator, SynthesisedTask
from freelib.inversion import InversionConfig, batchnorm_inputs
from freelib.methods.mixing import mixed_images
from freelib.methods.procedural import procedural_images
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel, check_answers, read_description, save_member
from freelib.storage import tensors_digest

MOST = 22.0
"""Squared distance from the rest, in robust deviations over nine measures, from which on a member is dropped.

Of fewer than 12 members more: what is usual among them is then less well known. See `most`.
"""
DEVIATION = (0.2, 0.3)
"""Of a measure, a logarithm, over good members: at least, and at most where bad ones may be among them."""
FEWEST = 5
"""Members of one architecture and domain: fewer are not held against each other."""
OWN = ("spread", "rank", "weight_norm", "noise_response")
SOURCES = 32  # members, at most, whose synthesised images all others are shown

COLUMNS = (
    *("name", "arch", "parameters", "classes", "statistics", "gradients", "ms_per_image"),
    *("spread", "rank", "weight_norm", "noise_response"),
    *("agreement", "teacher_accuracy", "claimed", "distance", "verdict"),
)


def probe_images(pool: ModelPool, n: int, *, seed: int = 0) -> Tensor:
    """Images that no camera made, `(2 n, C, H, W)` in [0, 1]: procedural ones, and mixtures of them."""
    rng, gray = torch.Generator().manual_seed(seed), pool.channels != 3
    mean, std = ((0.5,) * 3, (0.25,) * 3) if gray else (pool.mean, pool.std)
    drawn = procedural_images(n, pool.image_size, rng, mean=mean, std=std)
    images = images_to_float(torch.cat([drawn, mixed_images(drawn, n, rng)]))
    return images.mean(1, keepdim=True).repeat(1, pool.channels, 1, 1) if gray else images


def probe_tasks(models: Sequence[PretrainedModel], image_size: int, *, seed: int = 0) -> list[SynthesisedTask]:
    """A task of each model, synthesised in 30 steps from one and the same untrained generator."""
    if not models:
        return []
    per_class = max(1, 50 // max(model.n_way for model in models))
    config = InversionConfig(lambda_bn=1.0, lambda_adv=0.0, augment_padding=0, augment_flip=False, ngf=8)
    config = replace(config, generator_lr=1e-2, z_lr=1e-2, images_per_class=per_class, adapt_steps=30)
    rng, channels = torch.Generator().manual_seed(seed), len(models[0].mean)
    generator = MetaGenerator(config, image_size=image_size, channels=channels, seed=seed, device=models[0].device)
    return [generator.adapt(model, None, rng) for model in models]


@torch.no_grad()
def statistics_gap(model: PretrainedModel, images: Tensor) -> list[float]:
    """How far images' statistics are from those that BatchNorm stored, of means and of variances: two logarithms.

    NaN for a model without stored statistics.
    """
    with batchnorm_inputs(model.module) as inputs:
        model(images)
    gaps = []
    for layer, x in inputs:
        assert isinstance(layer.running_mean, Tensor) and isinstance(layer.running_var, Tensor)
        variance, mean = torch.var_mean(x.float(), (0, 2, 3))
        stored = layer.running_var.float() + 1e-5
        of_means = (mean - layer.running_mean).square() / stored
        of_variances = ((variance + 1e-5) / stored).log().abs()
        gaps.append(torch.stack([of_means.mean(), of_variances.mean()]))
    return torch.stack(gaps).mean(0).log().tolist() if gaps else [torch.nan, torch.nan]


def facts(model: PretrainedModel, images: Tensor) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What is known of a member from running it; its kernel over the images, `(n²,)`; its logits.

    `spread` is the deviation of its logits over images, `rank` how many directions its features take up,
    `weight_norm` the mean squared norm of a neuron's weights over layers, in their geometric mean, and
    `noise_response` one minus the cosine of centred features with those of images with noise of deviation 0.1.
    A network that has learned little, or a few images by heart, has small weights and features that noise
    leaves as they are.
    Raises ValueError, and whatever someone's own network raises, where it can't be used.
    """
    check_answers(model)
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    parts, noisy = (x.to(model.device).split(128) for x in (images, (images + noise).clamp(0, 1)))
    start = time.perf_counter()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in parts])
        seconds = time.perf_counter() - start
        try:
            features, shaken = (torch.cat([model.features(x) for x in xs]).double() for xs in (parts, noisy))
        except TypeError:
            features, shaken = logits.double(), torch.cat([model(x) for x in noisy]).double()
    if not (logits.isfinite().all() and features.isfinite().all()):
        raise ValueError("its answers or features are not finite")
    with torch.enable_grad():
        gradients = model(parts[0][:2].clone().requires_grad_()).requires_grad
    energy = torch.linalg.svdvals(features - features.mean(0)).square()
    unit = F.normalize(features, dim=1)
    kept = F.cosine_similarity(features - features.mean(0), shaken - shaken.mean(0))
    weights = [p.flatten(1).square().sum(1).mean().log() for p in model.module.parameters() if p.ndim > 1]
    kernel = (unit - unit.mean(0)) @ (unit - unit.mean(0)).T
    row = {
        "statistics": any(getattr(layer, "running_mean", None) is not None for layer in model.module.modules()),
        "gradients": gradients,
        "ms_per_image": 1000 * seconds / len(images),
        "spread": float((logits - logits.mean(1, keepdim=True)).std()),
        "rank": float(energy.sum().square() / energy.square().sum()),
        "weight_norm": float(torch.stack(weights).mean().exp()) if weights else torch.nan,
        "noise_response": float(1 - kept.mean()),
    }
    return row, F.normalize(kernel.flatten(), dim=0), logits


def most(n: int) -> float:
    """The distance from which on one of n members is dropped."""
    return MOST * max(1.0, 12 / n)


def distances(own: Tensor, pairs: Tensor) -> Tensor:
    """Each member's squared distance from the rest, in robust deviations summed over measures, `(n,)`.

    own: measures of each member, `(n, a)`; pairs: of each, held against each other one, `(b, n, n)`; NaN where
    a measure can't be taken

    The middle of the rest is that of the shortest half of the members, which bears up to half of them bad.
    Then those beyond `most` are left out, and all are measured again by those kept, until that changes nothing.
    """
    kept, found = torch.ones(len(own), dtype=torch.bool), torch.zeros(len(own))
    for step in range(10):
        seen = torch.cat([own, pairs[:, :, kept].nanmean(2).T], 1)
        part, half = seen[kept], len(seen) // 2 + 1
        if step == 0:
            ordered = seen.sort(0).values
            width, first = (ordered[half - 1 :] - ordered[: len(seen) - half + 1]).min(0)
            rows = first + torch.arange(half)[:, None]
            middle, scale = ordered.gather(0, rows).median(0).values, (width / 1.349).clamp(max=DEVIATION[1])
        else:
            middle, scale = part.median(0).values, part.std(0)
        found = ((seen - middle) / scale.clamp_min(DEVIATION[0])).square().nansum(1)
        before, kept = kept, found < most(len(own))
        if kept.sum() < 3 or (step and bool((before == kept).all())):
            break
    return found


def check_pool(pool: ModelPool, *, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each member: COLUMNS, of which `verdict` is "keep" or why it should be dropped.

    `agreement` is the mean centred kernel alignment of its features with the others', over images that no
    camera made, `teacher_accuracy` how many of the images that are synthesised from it it recognises, and
    `distance` that from the members of its architecture and domain (`distances`). What can't be measured is
    None. More than half of the members have to be good; what a model claims is shown and not believed.
    """
    images, seen = probe_images(pool, 128, seed=seed), dict[int, tuple[Tensor, Tensor]]()
    rows = [dict.fromkeys(COLUMNS) | {"verdict": "keep"} for _ in pool.descriptions]
    first: dict[str, int] = {}
    for i, (row, about) in enumerate(zip(rows, pool.descriptions, strict=True)):
        row |= {"name": about["name"], "arch": about["arch"], "claimed": about.get("accuracy")}
        try:
            model, row["classes"] = pool[i], len(about["class_names"])
            row["parameters"] = sum(p.numel() for p in model.module.parameters())
            found, kernel, logits = facts(model, images)
            row |= found
            seen[i] = kernel, logits
            same = [j for j in seen if j != i and torch.equal(seen[j][1], seen[i][1])]
            if (earlier := first.setdefault(tensors_digest(model.tensors()), (*same, i)[0])) != i:
                row["verdict"] = f"a copy of {rows[earlier]['name']}"
        except Exception as error:  # someone's own code may raise anything
            row["verdict"] = str(error)[:200]
    alive = [i for i, row in enumerate(rows) if row["verdict"] == "keep"]
    pairs = torch.full((3, len(rows), len(rows)), torch.nan)
    for i, j in permutations(alive, 2):
        pairs[0, i, j] = (seen[i][0] @ seen[j][0]).clamp_min(1e-3)
    sources = [i for i in alive if rows[i]["gradients"]]
    tasks = dict(zip(sources, probe_tasks([pool[i] for i in sources], pool.image_size, seed=seed), strict=True))
    for i, task in tasks.items():
        rows[i]["teacher_accuracy"] = accuracy = float(task.teacher_accuracy)
        if accuracy < min(2 / task.model.n_way, 0.5):
            rows[i]["verdict"] = "it does not recognise the images that are synthesised from it"
    sources = [i for i in sources if rows[i]["verdict"] == "keep"]
    for i, j in product(alive, sources[:: 1 + len(sources) // SOURCES]):
        if i != j:
            pairs[1:, i, j] = torch.tensor(statistics_gap(pool[i], tasks[j].images))
    _hold_against_the_rest(pool, rows, pairs)
    return rows


def _hold_against_the_rest(pool: ModelPool, rows: list[dict[str, Any]], pairs: Tensor) -> None:
    """Fills in distance and agreement, and the verdicts that rest on them."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, (row, about) in enumerate(zip(rows, pool.descriptions, strict=True)):
        if row["verdict"] == "keep":
            groups.setdefault((about["arch"], about["domain"]), []).append(i)
    for members in groups.values():
        if len(members) < FEWEST:
            continue
        own = torch.tensor([[rows[i][name] for name in OWN] for i in members]).log()
        among = pairs[:, members][:, :, members]
        found = distances(own, torch.cat([among[:1].log(), among[1:], among[1:].mT]))
        for i, distance, agreement in zip(members, found.tolist(), among[0].nanmean(1).tolist(), strict=True):
            rows[i] |= {"distance": distance, "agreement": agreement}
            if distance >= most(len(members)):
                rows[i]["verdict"] = "it is unlike the rest"


def screened(pool: ModelPool, folder: Path | None = None, *, seed: int = 0) -> ModelPool:
    """The members that `check_pool` keeps; with a folder, stored there as a pool.

    Raises ValueError where it keeps none.
    """
    return kept_by(check_pool(pool, seed=seed), pool, folder)


def kept_by(rows: Sequence[Mapping[str, Any]], pool: ModelPool, folder: Path | None = None) -> ModelPool:
    """The members that the rows of `check_pool` keep, see `screened`."""
    places = {row["name"]: i for i, row in enumerate(rows) if row["verdict"] == "keep"}
    if not places:
        raise ValueError("No member of the pool can be trusted: `freelib pool check` says why.")
    if folder is None:
        return ModelPool([pool.descriptions[i] for i in places.values()], lambda about: pool[places[about["name"]]])
    for i in places.values():
        about = pool.descriptions[i]
        save_member(pool[i], folder, **{key: about[key] for key in ("training", "seconds") if key in about})
    return ModelPool.load(folder, names=list(places))


def check_folder(folder: Path, out: Path | None = None) -> list[dict[str, Any]]:
    """As `check_pool`, of the pool in a folder, whose files may be damaged; those kept are stored in `out`.

    Raises FileNotFoundError where there is no pool, ValueError where all are to be dropped and `out` is given.
    """
    names, damaged = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            names.append(read_description(file)["name"])
        except ValueError as error:
            damaged.append(dict.fromkeys(COLUMNS) | {"name": file.stem, "verdict": str(error)})
    if damaged and not names:
        return damaged
    pool = ModelPool.load(folder, names=names or None)
    rows = check_pool(pool)
    if out is not None:
        kept_by(rows, pool, out)
    return rows + damaged

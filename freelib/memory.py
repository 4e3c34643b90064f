"""The replay memory: recovered images by class, and the cross-task episodes drawn from it (brief, part 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from freelib.datasets.episodes import Episode, class_major_labels, images_to_float, images_to_uint8
from freelib.generator import SynthesisedTask
from freelib.models.pool import PretrainedModel
from freelib.models.transform import resized

ClassKey = tuple[str, str]  # (domain, class name)


class TaskMemory:
    """Keeps the last `batches_per_class` batches of recovered images of each class, whatever their model.

    Images are kept as uint8: a 255th is below what the inversion can mean, and the memory takes a quarter of
    the room. Images of another size than `image_size` are resized as they come in, so that domains can meet.
    """

    def __init__(
        self, *, image_size: int, batches_per_class: int = 20, device: torch.device | str = "cpu"
    ) -> None:
        if batches_per_class < 1:
            raise ValueError(f"The memory keeps at least 1 batch a class, got {batches_per_class}.")
        self.image_size, self.batches_per_class = image_size, batches_per_class
        self.device = torch.device(device)
        self._batches: dict[ClassKey, list[Tensor]] = {}  # each (m, C, H, W) uint8, the newest last
        self._sources: dict[ClassKey, list[str]] = {}  # the name of the model that each batch came from

    def add(self, tasks: list[SynthesisedTask]) -> None:
        """Keeps the images of some recovered tasks; the oldest batch of a class that has enough goes."""
        for task in tasks:
            stored = images_to_uint8(resized(task.images.detach(), self.image_size)).to(self.device)
            for label, key in enumerate(task.model.classes):
                self._append(key, stored[task.labels == label], task.model.name)

    def _append(self, key: ClassKey, images: Tensor, source: str) -> None:
        batches, sources = self._batches.setdefault(key, []), self._sources.setdefault(key, [])
        batches.append(images)
        sources.append(source)
        del batches[: -self.batches_per_class], sources[: -self.batches_per_class]

    @property
    def classes(self) -> list[ClassKey]:
        """The classes that it holds, in the order in which they came."""
        return list(self._batches)

    def __len__(self) -> int:
        """How many images it holds."""
        return sum(len(batch) for batches in self._batches.values() for batch in batches)

    def _models(self) -> dict[str, list[ClassKey]]:
        """Which classes came from which model, each model with all of its classes."""
        models: dict[str, list[ClassKey]] = {}
        for key, sources in self._sources.items():
            for source in dict.fromkeys(sources):
                models.setdefault(source, []).append(key)
        return models

    def ready(self, n_way: int, n_shot: int, n_query: int, *, scope: str = "cross") -> bool:
        """Whether an episode of this size can be drawn."""
        return len(self._candidates(n_way, n_shot + n_query, scope)) > 0

    def _candidates(self, n_way: int, per_class: int, scope: str) -> list[tuple[str | None, list[ClassKey]]]:
        """Groups of at least n_way classes with enough images, from which an episode may take its classes."""
        groups: list[tuple[str | None, list[ClassKey]]] = [(None, self.classes)]
        if scope == "within":
            groups = list(self._models().items())
        able = [(m, [k for k in keys if sum(map(len, self._of(k, m))) >= per_class]) for m, keys in groups]
        return [(model, keys) for model, keys in able if len(keys) >= n_way]

    def _of(self, key: ClassKey, model: str | None) -> list[Tensor]:
        pairs = zip(self._batches[key], self._sources[key], strict=True)
        return [batch for batch, source in pairs if model is None or source == model]

    def episode(
        self, n_way: int, n_shot: int, n_query: int, rng: torch.Generator, *, scope: str = "cross"
    ) -> Episode:
        """A new N-way task: its classes mix models ("cross"), or are those of one model ("within").

        Raises ValueError where the memory holds too little for it (see `ready`).
        """
        per_class = n_shot + n_query
        groups = self._candidates(n_way, per_class, scope)
        if not groups:
            raise ValueError(
                f"The memory holds no {n_way} classes with {per_class} images each; add tasks first."
            )
        model, keys = groups[int(torch.randint(len(groups), (1,), generator=rng))]
        chosen = torch.randperm(len(keys), generator=rng)[:n_way].tolist()
        images = torch.stack([self._draw(self._of(keys[i], model), per_class, rng) for i in chosen])
        return Episode(
            images_to_float(images[:, :n_shot].flatten(0, 1)),
            class_major_labels(n_way, n_shot).to(self.device),
            images_to_float(images[:, n_shot:].flatten(0, 1)),
            class_major_labels(n_way, n_query).to(self.device),
        )

    def _draw(self, batches: list[Tensor], n: int, rng: torch.Generator) -> Tensor:
        """Draws n different images from some batches."""
        total = sum(map(len, batches))
        rows = torch.randperm(total, generator=rng)[:n]
        # Only the rows that are asked for are copied: the batches themselves stay where they are.
        bounds = torch.tensor([0, *map(len, batches)]).cumsum(0)
        which = torch.searchsorted(bounds, rows, right=True) - 1
        pairs = zip(which.tolist(), (rows - bounds[which]).tolist(), strict=True)
        return torch.stack([batches[b][row] for b, row in pairs])

    def recall(self, model: PretrainedModel, rng: torch.Generator) -> SynthesisedTask | None:
        """A task that was recovered from a model and is still held, or None: what BelL distils again.

        Its images come class by class, `(n_way * images_per_class, C, H, W)` float in [0, 1].
        """
        batches = [self._of(key, model.name) if key in self._batches else [] for key in model.classes]
        held = min(map(len, batches))
        if held == 0:
            return None
        age = 1 + int(torch.randint(held, (1,), generator=rng))
        chosen = [batch[-age] for batch in batches]
        counts = torch.tensor([len(batch) for batch in chosen])
        labels = torch.arange(model.n_way).repeat_interleave(counts)
        nothing = torch.empty(0, device=self.device)
        return SynthesisedTask(
            images_to_float(torch.cat(chosen)), labels.to(self.device), model, nothing, nothing
        )

    def state_dict(self) -> dict:
        """All images with their classes and models, for a checkpoint."""
        return {
            "keys": [list(key) for key in self._batches],
            "batches": list(self._batches.values()),
            "sources": list(self._sources.values()),
        }

    def load_state_dict(self, state: dict) -> None:
        """Back to a state that `state_dict` gave."""
        keys: list[ClassKey] = [(domain, name) for domain, name in state["keys"]]
        self._batches = {
            k: [b.to(self.device) for b in v] for k, v in zip(keys, state["batches"], strict=True)
        }
        self._sources = dict(zip(keys, map(list, state["sources"]), strict=True))

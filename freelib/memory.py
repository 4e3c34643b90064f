"""The replay memory: synthesised images by class, and the cross-task episodes drawn from it."""

import torch
from torch import Tensor

from freelib.datasets.episodes import Episode, images_to_float, images_to_uint8
from freelib.generator import SynthesisedTask, most_classes, some_classes
from freelib.models.pool import PretrainedModel
from freelib.models.transform import resized

ClassKey = tuple[str, str]  # (domain, class name)
Batch = tuple[str, Tensor]  # the name of the model that it came from, images (m, C, H, W) uint8


class TaskMemory:
    """Keeps the last `batches_per_class` batches of synthesised images of each class, whatever their model.

    Images are kept as uint8: a 255th is below what the inversion can mean, and the memory takes a quarter of
    the room. They are resized to `image_size` pixels as they come in, so that domains can meet.

    Raises ValueError for less than 1 batch a class.

    >>> memory = TaskMemory(image_size=32)
    >>> memory.ready(n_way=5, n_shot=1, n_query=15)
    False
    """

    def __init__(self, *, image_size: int, batches_per_class: int = 20, device: torch.device | str = "cpu") -> None:
        if batches_per_class < 1:
            raise ValueError(f"The memory keeps at least 1 batch a class, got {batches_per_class}.")
        self.image_size, self.batches_per_class = image_size, batches_per_class
        self.device = torch.device(device)
        self._batches: dict[ClassKey, list[Batch]] = {}  # the newest last

    def add(self, tasks: list[SynthesisedTask]) -> None:
        """Keeps the images of some synthesised tasks; the oldest batch of a class that has enough goes."""
        for task in tasks:
            stored = images_to_uint8(resized(task.images.detach(), self.image_size)).to(self.device)
            for label in task.labels.unique().tolist():
                batches = self._batches.setdefault(task.model.classes[label], [])
                batches.append((task.model.name, stored[task.labels == label]))
                del batches[: -self.batches_per_class]

    @property
    def classes(self) -> list[ClassKey]:
        """The classes that it holds, in the order in which they came."""
        return list(self._batches)

    def __len__(self) -> int:
        """How many images it holds."""
        return sum(len(images) for batches in self._batches.values() for _, images in batches)

    def ready(self, n_way: int, n_shot: int, n_query: int, *, scope: str = "cross") -> bool:
        """Whether an episode of this size can be drawn, see `episode`."""
        return bool(self._candidates(n_way, n_shot + n_query, scope))

    def _candidates(self, n_way: int, per_class: int, scope: str) -> list[tuple[str | None, list[ClassKey]]]:
        """Groups of at least n_way classes with enough images: each model's ("within"), or all ("cross")."""
        counts: dict[str | None, dict[ClassKey, int]] = {}
        for key, batches in self._batches.items():
            for model, images in batches:
                group = counts.setdefault(model if scope == "within" else None, {})
                group[key] = group.get(key, 0) + len(images)
        able = [(m, [key for key, n in group.items() if n >= per_class]) for m, group in counts.items()]
        return [(model, keys) for model, keys in able if len(keys) >= n_way]

    def _of(self, key: ClassKey, model: str | None) -> list[Tensor]:
        """The batches of a class that came from a model, or from any."""
        return [images for source, images in self._batches.get(key, []) if model in (None, source)]

    def episode(self, n_way: int, n_shot: int, n_query: int, rng: torch.Generator, *, scope: str = "cross") -> Episode:
        """A new N-way K-shot task, of different images; support and query are float in [0, 1].

        scope: "cross" mixes the classes of all models (cross-task replay), "within" takes one model's
        rng: what classes and images are drawn from

        Raises ValueError where the memory holds too little for it.
        """
        per_class = n_shot + n_query
        groups = self._candidates(n_way, per_class, scope)
        if not groups:
            raise ValueError(f"The memory holds no {n_way} classes with {per_class} images each; add tasks first.")
        model, keys = groups[int(torch.randint(len(groups), (1,), generator=rng))]
        chosen = torch.randperm(len(keys), generator=rng)[:n_way].tolist()
        images = torch.stack([self._draw(self._of(keys[i], model), per_class, rng) for i in chosen])
        return Episode.of_classes(images_to_float(images), n_shot)

    def _draw(self, batches: list[Tensor], n: int, rng: torch.Generator) -> Tensor:
        """Draws n different images from some batches."""
        places = [(images, i) for images in batches for i in range(len(images))]
        rows = torch.randperm(len(places), generator=rng)[:n].tolist()
        return torch.stack([images[i] for images, i in (places[row] for row in rows)])

    def recall(self, model: PretrainedModel, rng: torch.Generator) -> SynthesisedTask | None:
        """A task that was synthesised from a model and is still held, or None: what BelL distils again.

        Its images come class by class, `(n, C, H, W)` float in [0, 1]; its logits and curves are empty.
        """
        batches = [self._of(key, model.name) for key in model.classes]
        there = [label for label, held in enumerate(batches) if held]
        n = len(batches[there[0]][0]) if there else 1
        if len(there) < min(most_classes(n, self.image_size), model.n_way):
            return None
        classes = some_classes(torch.tensor(there), n, self.image_size, rng)
        age = 1 + int(torch.randint(min(len(batches[label]) for label in classes), (1,), generator=rng))
        chosen = [batches[label][-age] for label in classes]
        labels = classes.repeat_interleave(torch.tensor([len(batch) for batch in chosen]))
        nothing = torch.empty(0, device=self.device)
        return SynthesisedTask(images_to_float(torch.cat(chosen)), labels.to(self.device), model, nothing, nothing)

    def state_dict(self) -> dict:
        return {
            "keys": [list(key) for key in self._batches],
            "batches": [[images for _, images in batches] for batches in self._batches.values()],
            "sources": [[source for source, _ in batches] for batches in self._batches.values()],
        }

    def load_state_dict(self, state: dict) -> None:
        self._batches = {}
        rows = zip(state["keys"], state["sources"], state["batches"], strict=True)
        for (domain, name), sources, batches in rows:
            held = zip(sources, (images.to(self.device) for images in batches), strict=True)
            self._batches[domain, name] = list(held)

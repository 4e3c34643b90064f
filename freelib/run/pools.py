"""Pools by data set and profile: pre-trained once, kept in the cache, found again by what determines them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freelib.datasets import FewShotDataset, load_dataset
from freelib.folders import cache_folder, check_writable
from freelib.models.pool import ModelPool
from freelib.models.pretraining import PoolConfig, pretrain_pool
from freelib.run.profiles import Profile, fitted
from freelib.storage import digest_of, plain


def pool_config(dataset: str, profile: Profile, /, **fields: Any) -> PoolConfig:
    """The PoolConfig of a profile for a data set, with `fields` over the profile's.

    Raises ValueError for a field that it does not have.
    """
    wanted = {"n_way": profile.n_way, "device": profile.device, **profile.pool_fields(dataset), **fields}
    return fitted(PoolConfig, wanted, "PoolConfig")


@dataclass(frozen=True)
class PoolPart:
    """Models of one data set and one PoolConfig: the first `take` of them, or all.

    number: how many parts of the data set come before; a model's classes depend on the seed and on its place
      in its part alone, so each part has a seed of its own
    """

    dataset: str
    config: PoolConfig
    take: int | None = None
    number: int = 0

    def seed(self, seed: int) -> int:
        """The part's own seed, by the pool's."""
        return seed + 1000 * self.number

    def identity(self, train: FewShotDataset, seed: int) -> dict[str, Any]:
        """`pool_identity`, and how many are taken."""
        taken = {} if self.take is None else {"take": self.take}
        return pool_identity(train, self.config, self.seed(seed)) | taken

    def matches(self, identity: dict[str, Any], seed: int) -> bool:
        """Whether a record's part is this one, as far as that can be said without the images."""
        own = {"dataset": self.dataset, "seed": self.seed(seed), "config": self.config, "take": self.take}
        return all(identity.get(name) == value for name, value in plain(own).items())


def pool_parts(dataset: str, profile: Profile) -> list[PoolPart]:
    """What a pool is put together from: for each of the data sets (see `Unit`) the profile's `pool_parts`."""
    return [
        PoolPart(name, pool_config(name, profile, **fields), part.get("take"), number)
        for name in dataset.split("+")
        for number, part in enumerate(profile.pool_parts or ({},))
        for fields in [{key: value for key, value in part.items() if key != "take"}]
    ]


def parts_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a record's pool, by what determines them; an empty one where it names no pool."""
    pool = record["pool"] or {}
    return pool.get("parts", [pool])


def pool_seed(profile: Profile, seed: int) -> int:
    """The seed of the pool that a run of this seed learns from."""
    return seed if profile.pool_seed is None else profile.pool_seed


def pool_identity(dataset: FewShotDataset, config: PoolConfig, seed: int) -> dict[str, Any]:
    """What determines a pool's bits: the meta-training split, the config and the seed."""
    return {
        "dataset": dataset.name,
        "data_digest": dataset.digest,
        "image_size": dataset.image_size,
        "seed": seed,
        "config": plain(config),
    }


def pool_folder(identity: dict[str, Any]) -> Path:
    """Where the pool of that identity lies, or would lie: `$FREELIB_CACHE/pools/<digest>`."""
    return cache_folder() / "pools" / digest_of(identity)


def pretrain_into(
    dataset: str,
    profile: Profile,
    seed: int,
    *,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    config: PoolConfig | None = None,
) -> tuple[ModelPool, Path]:
    """The pool of one data set and a seed, and its folder; what the folder lacks is pre-trained first.

    folder: its place in the cache if None; progress: called with (members done, members wanted)
    config: the profile's if None

    Raises MissingDataError where the data set is not there.
    """
    config = config or pool_config(dataset, profile)
    if folder is not None:
        check_writable(Path(folder))
    train = load_dataset(dataset, "train", size=profile.size_of(dataset))
    folder = pool_folder(pool_identity(train, config, seed)) if folder is None else Path(folder)
    pretrain_pool(train, config, folder, seed=seed, workers=profile.processes, progress=progress)
    return ModelPool.load(folder, device=config.device), folder


def get_pool(
    dataset: str, profile: Profile, seed: int, *, progress: Callable[[int, int], None] | None = None
) -> ModelPool:
    """The pool that runs with this seed learn from, pre-trained first where the cache lacks (part of) it."""
    seed = pool_seed(profile, seed)
    pools = []
    for part in pool_parts(dataset, profile):
        made, _ = pretrain_into(part.dataset, profile, part.seed(seed), progress=progress, config=part.config)
        pools.append(made[: part.take])
    return ModelPool.joined(pools)

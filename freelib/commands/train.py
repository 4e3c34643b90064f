"""`freelib train`: a method, a pool, and out comes a learner."""

from __future__ import annotations

from pathlib import Path

import click

from freelib.commands import dataset_choice, emit, json_option, profile_option


@click.command(short_help="Meta-train a method on a pool and save the learner.")
@click.argument("method")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the learner."
)
@click.option(
    "--pool",
    "pool_folder",
    type=click.Path(path_type=Path),
    help="Folder of a pool; else the profile's own, pre-trained where needed.",
)
@profile_option
@click.option("--dataset", type=dataset_choice, help="Data set of the profile's pool; its first if left out.")
@click.option(
    "--n-shot", default=1, show_default=True, type=click.IntRange(min=1), help="Images a class to adapt to."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a field, such as rounds=50; `freelib methods --fields METHOD` lists them.",
)
@click.option(
    "--select-on",
    type=dataset_choice,
    help="Keep the round that is best on the meta-validation classes of this data set.",
)
@json_option
def train(
    method: str,
    out: Path,
    pool_folder: Path | None,
    profile: str,
    dataset: str | None,
    n_shot: int,
    seed: int,
    settings: tuple[str, ...],
    select_on: str | None,
    as_json: bool,
) -> None:
    """Meta-train METHOD on a pool and save the learner.

    METHOD is a name from `freelib methods`, or a class of your own: package.module:Class. No training image
    of the pool is seen, and without --select-on no other image either.

    A run that was stopped goes on from its last saved state. A state is saved at the end of a round: every
    checkpoint_every rounds, and sooner where 5 seconds have passed since the last, or a hundred times what
    saving takes, if that is more (pool_distillation: after each stage).
    """
    from freelib.datasets import load_dataset
    from freelib.methods import get_method
    from freelib.methods.training import clocks
    from freelib.models.pool import ModelPool
    from freelib.progress import Progress
    from freelib.run.learners import check_room, save_learner
    from freelib.run.pools import pool_seed, pretrain_into
    from freelib.run.profiles import get_profile
    from freelib.run.records import digest_of
    from freelib.run.runner import Run, time_spent
    from freelib.run.units import Unit, parse_overrides, unit_config
    from freelib.settings import check_device
    from freelib.storage import Checkpoint

    chosen, trained_with = get_profile(profile), get_method(method)
    trained_on = dataset or chosen.datasets[0]
    name = select_on or trained_on
    unit = Unit("train", method, name, n_shot, seed, parse_overrides(settings))
    config = unit_config(unit, chosen)
    # What can be refused is refused before the pool is pre-trained, which takes long.
    for device in {config.device} if pool_folder else {config.device, chosen.device}:
        check_device(device, here=True)
    progress = Progress(f"train {method}")
    monitor = Run(unit, chosen).monitor(progress.note) if select_on else None
    check_room(out, method=method, config=config, seed=seed)
    if pool_folder is None:
        with Progress("pool") as bar:
            own = pool_seed(chosen, seed)
            pool, pool_folder = pretrain_into(trained_on, chosen, own, progress=bar)
    else:
        pool = ModelPool.load(pool_folder, device=config.device)
    oracle = (
        {"dataset": load_dataset(trained_on, "train", size=pool.image_size)} if trained_with.oracle else {}
    )
    seen = [split.digest for split in oracle.values()]
    run = digest_of([method, trained_with.revision, config, seed, pool.digest, select_on, *seen])
    check_room(out, method=method, config=config, seed=seed, pool=pool)
    checkpoint = Checkpoint(out / f"checkpoint-{run}.pt")
    began = clocks()
    with progress:
        learner = trained_with.meta_train(
            pool, config, seed=seed, monitor=monitor, checkpoint=checkpoint, **oracle
        )
    seconds = round(time_spent(learner.log, began, config.device)["training"], 1)
    save_learner(learner, out, method=method, config=config, seed=seed, pool=pool, pool_folder=pool_folder)
    checkpoint.remove()
    value = {
        "learner": str(out),
        "method": method,
        "seconds": seconds,
        "selected_round": learner.selected_round,
    }
    emit(value, as_json, f"{trained_with.title} trained in {seconds} s, saved in {out}")

"""`freelib evaluate`: a saved learner on classes that it has never seen."""

from __future__ import annotations

from pathlib import Path

import click

from freelib.commands import dataset_choice, emit, json_option


@click.command(short_help="Test a saved learner on classes it has never seen.")
@click.argument("learner", type=click.Path(path_type=Path))
@click.option("--dataset", type=dataset_choice, default="glyphs", show_default=True)
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="The meta-validation or the meta-test classes.",
)
@click.option("--n-way", default=5, show_default=True, type=click.IntRange(min=2), help="Classes an episode.")
@click.option(
    "--n-shot", default=1, show_default=True, type=click.IntRange(min=1), help="Images a class to adapt to."
)
@click.option(
    "--n-query", default=15, show_default=True, type=click.IntRange(min=1), help="Images a class to classify."
)
@click.option("--episodes", default=600, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=1, show_default=True, help="Of the episodes; 1 is the one of the tables.")
@json_option
def evaluate(
    learner: Path,
    dataset: str,
    split: str,
    n_way: int,
    n_shot: int,
    n_query: int,
    episodes: int,
    seed: int,
    as_json: bool,
) -> None:
    """Test the learner in the folder LEARNER (from `freelib train`) on episodes of new classes."""
    from freelib.datasets import load_dataset
    from freelib.datasets.episodes import EpisodeSampler
    from freelib.progress import Progress
    from freelib.run.evaluation import evaluate as score_on
    from freelib.run.learners import load_learner

    loaded = load_learner(learner)
    images = load_dataset(dataset, split, size=loaded.transform.image_size)
    sampler = EpisodeSampler(images, n_way=n_way, n_shot=n_shot, n_query=n_query, seed=seed)
    with Progress("episodes") as progress:
        score = score_on(loaded, sampler, episodes, progress)
    value = {
        "learner": str(learner),
        "dataset": dataset,
        "split": split,
        "n_way": n_way,
        "n_shot": n_shot,
        "n_query": n_query,
        "n_episodes": episodes,
        "seed": seed,
        "accuracy": score.mean,
        "accuracy_ci95": score.ci95,
    }
    where = f"{n_way}-way {n_shot}-shot, {episodes} episodes of {dataset}, {split}"
    text = f"{score.mean:.2f} ± {score.ci95:.2f} % ({where})"
    emit(value, as_json, text)

"""The command line, `freelib VERB …`: results on standard output, progress and errors on standard error.

torch and pandas take seconds to import: each command imports what it needs, so that help is quick.
"""

import json
import logging
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from freelib import __version__
from freelib.folders import make_folders_absolute
from freelib.progress import printable


class Folder(click.Path):
    """A folder that is named: no empty word; `~` is the user's home, also where no shell has put it in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("it is empty: name a folder.", param, ctx)
        return super().convert(Path(value).expanduser(), param, ctx)


FOLDER = Folder(path_type=Path, file_okay=False)
FILE = Folder(path_type=Path, dir_okay=False)
AT_LEAST_1 = click.IntRange(1, 10**6)
SEED = click.IntRange(0, 2**32 - 1)
GOES_ON = f"{__name__}.goes_on"
PROFILE = click.Choice(["smoke", "cpu", "paper"])

profile_option = click.option("--profile", default="smoke", type=PROFILE, help="Size: minutes, hours, or a GPU's days.")
set_option = click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Set a field.")
root_option = click.option("--root", type=FOLDER, help="Folder with the data sets, instead of $FREELIB_DATA.")
learner_option = click.option("--learner", required=True, type=FOLDER, help="Folder of `freelib train`.")
support_option = click.option("--support", required=True, type=FOLDER, help="Folder of <class>/<image>.")
results_option = click.option("--results", default="results", type=FOLDER, help="Folder for what they write.")


def DATASET(name: str) -> str:
    """A type of argument: the name of a data set, also of one's own. Fails for an unknown one."""
    from freelib.datasets.own import about

    try:
        about(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return name


class Result(NamedTuple):
    """What a command gives: a value for --json; the text for people, a table of its rows if None; the exit status."""

    value: Any
    text: str | None = None
    status: int = 0


class Verb(click.Command):
    """A command with --json, which writes to standard output what its function returns."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        how: dict[str, Any] = {"is_flag": True, "expose_value": False, "help": "Print the result as JSON."}
        self.params.append(click.Option(["--json"], callback=lambda ctx, _, value: ctx.meta.update(json=value), **how))

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command, writes the result, and ends with its status."""
        result: Result = super().invoke(ctx)
        if ctx.meta["json"]:
            click.echo(json.dumps(result.value, indent=1, allow_nan=False))
        else:
            click.echo(printable(table(result.value) if result.text is None else result.text, lines=True))
        ctx.exit(result.status)


class Verbs(click.Group):
    """Commands in the order in which one uses them, whose errors are one sentence instead of a traceback."""

    command_class, group_class = Verb, type  # `data` and `pool` are of this class too

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of this file."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. Bad input (ValueError, a missing file) ends with 2, other failures with 1."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as stopped:
            complain("freelib: interrupted" + ctx.meta.get(GOES_ON, ""))
            ctx.exit(128 + (stopped.args or (signal.SIGINT,))[0])
        except Exception as error:
            debug = ctx.find_root().params["debug"]
            if debug:
                traceback.print_exc()
            bad_input = isinstance(error, ValueError | FileNotFoundError)
            named = isinstance(error, OSError) and error.filename and f"{error.filename}: {error.strerror}"
            complain(f"freelib: {named or error or type(error).__name__}")
            if not (debug or isinstance(error, ValueError | OSError | ArithmeticError)):
                complain("`freelib --debug …` shows where it happened.")
            ctx.exit(2 if bad_input else 1)


def goes_on() -> None:
    """From here on, an interrupt says that the same command goes on from what is saved."""
    click.get_current_context().meta[GOES_ON] = ": the same command goes on from what is saved"


def complain(text: str) -> None:
    """Writes an error to standard error."""
    click.echo(printable(text, lines=True), err=True)


def table(rows: Iterable[Mapping[str, Any]] | Mapping[str, Any], *columns: str) -> str:
    """Some columns of the rows, or of the one row, under their names; all if none is named."""
    from tabulate import tabulate

    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    columns = columns or tuple(rows[0])
    cells = [[printable(cell(row.get(name))) for name in columns] for row in rows]
    return tabulate(cells, [name.replace("_", " ") for name in columns], "plain", disable_numparse=True)


def cell(value: Any) -> str:
    """How a table shows a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "/".join(map(str, value.values()))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, message="%(version)s")
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
def main(debug: bool) -> None:
    """Data-free meta-learning: from a pool of pre-trained classifiers to a learner of new classes.

    \b
    First steps:
      freelib data list                       which data sets there are, and where they come from
      freelib pool pretrain --dataset glyphs  train the classifiers that all methods start from
      freelib train free --out my-learner     meta-train FREE on them
      freelib evaluate my-learner             accuracy on new classes
      freelib reproduce                       every table and figure

    \b
    With models and pictures of your own:
      freelib pool import MODELS --out my-pool
      freelib train --pool my-pool --minutes 5 --out my-learner
      freelib adapt --learner my-learner --support SHOWN --query ASKED --sheet sheet.png
      freelib export --learner my-learner --support SHOWN --onnx mine.onnx

    Environment: FREELIB_DATA (folder with the data sets), FREELIB_CACHE (decoded images, pools, checkpoints).
    Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated.
    """
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, interrupt)
    make_folders_absolute()  # the kernels of notebooks run in another folder


def interrupt(number: int, _frame: object) -> None:
    """Ends the command at a signal without what is logged while kernels and processes are ended with it."""
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    logging.disable()
    raise KeyboardInterrupt(number)


@main.group()
def data() -> None:
    """List, find and decode the data sets, and add one's own.

    `glyphs` needs nothing, nor do those that `add` registers. For the others set FREELIB_DATA to a folder with,
    for each, one of

    \b
      <name>.parquet                      columns: image (struct with bytes), label
      <name>/<class>/<image>              the class splits come with freelib
      <name>/<split>/<class>/<image>
      cifar-100-python/                   as torchvision downloads it (cifar-fs only)

    Images are decoded once, into FREELIB_CACHE.
    """


@data.command("list")
def list_data() -> Result:
    """List the data sets: size in pixels, and the number of classes to train, validate and test on."""
    from freelib.datasets.own import about, dataset_names

    rows = []
    for name in dataset_names():
        known = about(name)
        rows.append({"name": name, "image_size": known.size, "classes": {s: len(c) for s, c in known.classes.items()}})
    return Result(rows)


@data.command()
@root_option
def status(root: Path | None) -> Result:
    """Say which data sets are at hand, and for the others how to get them."""
    from freelib.run.doctor import sources

    return Result(sources(root))


@data.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--split-seed", type=SEED, help="Draw the class splits: 64, 16 and 20 %.")
@click.option("--splits", type=click.Path(path_type=Path), help="File of class splits: lines split<TAB>class.")
@click.option("--size", default=84, type=click.IntRange(8, 4096), help="Side that images are resized to, in pixels.")
@click.pass_context
def add(ctx: click.Context, name: str, path: Path, **settings: Any) -> Result:
    """Register the images in PATH, which stay there, as the data set NAME, which every command then takes.

    PATH is a folder of class folders, also within train, val and test, a Parquet file, a folder of shards, or
    one of lists. Class splits are the data's own where it has some, else drawn with seed 0.
    """
    from freelib.datasets.own import add_dataset

    made = add_dataset(name, path, **settings)
    complain(f"class splits: {made.how}")
    if small := [split for split, classes in made.classes.items() if len(classes) < 5]:
        complain(f"5-way episodes need 5 classes: {', '.join(small)} has fewer")
    return ctx.invoke(prepare, name=name)


@data.command(cls=click.Command)
@click.argument("name")
def remove(name: str) -> None:
    """Forget a data set of one's own; its images stay."""
    from freelib.datasets.own import registration

    registration(name).unlink()


@data.command()
@click.argument("name", type=DATASET)
@click.option("--size", type=click.IntRange(8, 4096), help="Side of the images in pixels, instead of their own.")
@root_option
@click.option("--download", is_flag=True, help="Let torchvision fetch CIFAR-100 into the folder (cifar-fs only).")
def prepare(name: str, size: int | None, root: Path | None, download: bool) -> Result:
    """Decode (or render) a data set into the cache, and describe it."""
    from freelib.datasets import SPLITS, load_dataset

    rows = []
    for split in SPLITS:
        part = load_dataset(name, split, size=size, root=root, download=download)
        fewest, most = min(part.counts), max(part.counts)
        rows.append(
            {
                "split": split,
                "classes": part.n_classes,
                "images": len(part.images),
                "images_per_class": f"{fewest}" if fewest == most else f"{fewest}-{most}",
                "image_size": part.image_size,
                "digest": part.digest,
            }
        )
    return Result({"name": name, "splits": rows}, table(rows))


@main.group()
def pool() -> None:
    """Pre-train, import, list and show pools of classifiers.

    A pool is a folder with two files a model: <model>.safetensors (weights) and <model>.json (what is known
    of it). Those that the experiments pre-train lie in FREELIB_CACHE/pools.
    """


@pool.command()
@profile_option
@click.option("--dataset", type=DATASET, help="Whose meta-training classes; the profile's first if left out.")
@click.option("--seed", default=0, type=SEED, help="Decides on classes, weights and batches.")
@click.option("--folder", type=FOLDER, help="Where to put the pool, instead of the cache.")
@set_option
def pretrain(profile: str, dataset: str | None, seed: int, folder: Path | None, settings: tuple[str, ...]) -> Result:
    """Pre-train a pool, each model on a few random classes; what is there already stays.

    A run that was stopped goes on where it was.
    """
    from freelib.environment import keep_freed_memory
    from freelib.progress import Progress
    from freelib.run.pools import pool_config, pretrain_into
    from freelib.run.profiles import get_profile
    from freelib.run.units import parse_overrides

    goes_on()
    chosen = get_profile(profile)
    name = dataset or chosen.datasets[0]
    config = pool_config(name, chosen, **parse_overrides(settings))
    keep_freed_memory()
    with Progress(f"pool of {name}") as progress:
        made, place = pretrain_into(name, chosen, seed, folder=folder, progress=progress, config=config)
    return Result(summary(place, made))


@pool.command("list")
def list_pools() -> Result:
    """List the pools in the cache; of a damaged one, what is wrong."""
    from freelib.folders import cache_folder
    from freelib.models.pool import ModelPool

    root = cache_folder() / "pools"
    rows = []
    for folder in sorted({path.parent for path in root.glob("*/*.json")}):
        try:
            rows.append(summary(folder, ModelPool.load(folder)))
        except (ValueError, FileNotFoundError) as error:
            rows.append(summary(folder, None) | {"state": f"damaged: {error}"})
    return Result(rows, None if rows else f"there are no pools in {root}")


def summary(folder: Path, made: Any) -> dict[str, Any]:
    """What is known of a pool as a whole; `accuracy` is the mean over its models, of held-out images."""
    models = [] if made is None else made.descriptions
    known = [model["accuracy"] for model in models if model.get("accuracy") is not None]
    return {
        "folder": str(folder),
        "models": len(models),
        "domains": sorted({model["domain"] for model in models}),
        "archs": sorted({model["arch"] for model in models}),
        "accuracy": sum(known) / len(known) if known else None,
        "digest": None if made is None else made.digest,
        "state": "whole",
    }


@pool.command()
@click.argument("folder", type=FOLDER)
def show(folder: Path) -> Result:
    """Show the models of a pool: architecture, classes, accuracy on images that their training held out."""
    from freelib.models.pool import ModelPool

    models = ModelPool.load(folder).descriptions
    return Result(models, table(models, "name", "arch", "accuracy", "class_names"))


@pool.command("import")
@click.argument("folder", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder for the pool; it must not be there yet.")
def import_models(folder: Path, out: Path) -> Result:
    """Make a pool of the classifiers in FOLDER: freelib's, torchvision's, timm's, transformers', ONNX files.

    Each is <model>.safetensors, .pt, .pth or .onnx with a card, <model>.json, or a folder of timm's or
    transformers' with its config.json. The guide says what a card holds.
    """
    from freelib.models.readers import import_pool

    return Result(summary(out, import_pool(folder, out)))


@pool.command()
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, help="Store the models that are kept as a pool here; it must not be there yet.")
def check(folder: Path, out: Path | None) -> Result:
    """Check each model of a pool without data: does it run, and is it like the rest? Exit status 1: some are bad.

    The verdict is "keep", or why to drop the model. More than half of the models have to be good. It takes two seconds
    for each Conv4 of 32 pixels.
    """
    from freelib.methods.screening import check_folder
    from freelib.run.budget import both_cores

    if out is not None and out.exists():
        raise ValueError(f"{out} is there already: choose another folder.")
    with both_cores():
        rows = check_folder(folder, out)
    shown = ("name", "arch", "classes", "ms_per_image", "teacher_accuracy", "claimed", "distance", "verdict")
    return Result(rows, table(rows, *shown), int(any(row["verdict"] != "keep" for row in rows)))


@main.command(short_help="List the methods, or one method's settings.")
@click.option("--fields", metavar="METHOD", help="Show one method's settings and their defaults instead.")
def methods(fields: str | None) -> Result:
    """List the methods: what they need of the models, what they cost, whom to cite.

    A method of your own is named by its import path, package.module:Class.
    """
    from dataclasses import asdict

    from freelib.methods import describe_methods, get_method
    from freelib.storage import plain

    if fields:
        settings = plain(asdict(get_method(fields).Config()))
        return Result(settings, table({"field": n, "default": value} for n, value in settings.items()))
    rows = describe_methods()
    return Result(rows, table(rows, "name", "needs", "same_architecture", "cost", "citation"))


@main.command(short_help="Meta-train a method on a pool and save the learner.")
@click.argument("method", default="pool_distillation")
@click.option("--out", required=True, type=FOLDER, help="Folder for the learner.")
@click.option("--pool", "pool_folder", type=FOLDER, help="Folder of a pool, instead of the profile's own.")
@click.option("--screen", is_flag=True, help="First drop the models that `freelib pool check` would.")
@profile_option
@click.option("--dataset", type=DATASET, help="Data set of the profile's pool; its first if left out.")
@click.option("--n-shot", default=1, type=AT_LEAST_1, help="Images per class to adapt to.")
@click.option("--seed", default=0, type=SEED)
@set_option
@click.option("--select-on", type=DATASET, help="Select the checkpoint on its meta-validation classes.")
@click.option("--minutes", type=float, help="Fit pool_distillation into this time, whatever the profile sets.")
@click.option("--tensorboard", type=FOLDER, help="Folder for what TensorBoard shows of the training, live.")
@click.option("--dry-run", is_flag=True, help="Only say what would be run.")
def train(
    method: str,
    out: Path,
    profile: str,
    dataset: str | None,
    n_shot: int,
    seed: int,
    settings: tuple[str, ...],
    tensorboard: Path | None,
    dry_run: bool,
    **how: Any,
) -> Result:
    """Meta-train METHOD on a pool and save the learner. The profile's pool is pre-trained where it lacks.

    METHOD is a name from `freelib methods`, or a class of your own: package.module:Class. `freelib methods
    --fields METHOD` lists what can be --set, such as rounds=50. No training image of the pool is seen, and
    without --select-on no other image either.

    A run that was stopped goes on from its last checkpoint: one is written every checkpoint_every rounds, and
    sooner where 5 seconds have passed, or a hundred times what writing takes, if that is more. With --minutes it
    begins anew. --dry-run tells seconds by the records in the folder `results`, as `freelib plan` does.
    """
    from contextlib import nullcontext
    from dataclasses import replace

    from freelib.environment import keep_freed_memory
    from freelib.methods import get_method
    from freelib.run.learners import train_learner
    from freelib.run.plan import forecast
    from freelib.run.profiles import get_profile
    from freelib.run.tensorboard import tensorboard as shown_in
    from freelib.run.units import Unit, parse_overrides

    chosen = get_profile(profile)
    if how["minutes"] is None:
        goes_on()
    else:
        chosen = replace(chosen, overrides={}, overrides_by_shots={})
    unit = Unit("train", method, dataset or chosen.datasets[0], n_shot, seed, parse_overrides(settings))
    if dry_run:
        told = forecast(unit, chosen, how["pool_folder"], how["minutes"])
        lines = (f"{name}: {'not known' if value is None else cell(value)}" for name, value in told.items())
        return Result(told, "\n".join(lines))
    keep_freed_memory()
    with shown_in(tensorboard) if tensorboard else nullcontext():
        learner, seconds = train_learner(unit, chosen, out, **how)
    row = {"learner": str(out), "method": method, "seconds": round(seconds, 1)}
    row["selected_round"] = learner.selected_round
    return Result(row, f"{get_method(method).title} trained in {seconds:.1f} s, saved in {out}")


@main.command(short_help="Test a saved learner on classes it has never seen.")
@click.argument("learner", type=FOLDER)
@click.option("--dataset", type=DATASET, default="glyphs")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", help="Which classes.")
@click.option("--n-way", default=5, type=click.IntRange(2, 10**6), help="Classes per episode.")
@click.option("--n-shot", default=1, type=AT_LEAST_1, help="Images per class to adapt to.")
@click.option("--n-query", default=15, type=AT_LEAST_1, help="Images per class to classify.")
@click.option("--episodes", "n_episodes", default=600, type=AT_LEAST_1)
@click.option("--seed", default=1, type=SEED, help="Of the episodes; 1 is the one of the tables.")
@click.option("--allow-custom-method", is_flag=True, help="Import the method that it names: this runs code.")
def evaluate(
    learner: Path, dataset: str, split: str, n_episodes: int, allow_custom_method: bool, **episodes: int
) -> Result:
    """Test the learner in the folder LEARNER (from `freelib train`) on episodes of new classes."""
    from freelib.datasets import load_dataset
    from freelib.datasets.episodes import EpisodeSampler
    from freelib.environment import keep_freed_memory
    from freelib.progress import Progress
    from freelib.run.budget import both_cores
    from freelib.run.evaluation import evaluate as score_on
    from freelib.run.learners import load_learner

    keep_freed_memory()
    loaded = load_learner(learner, allow_custom=allow_custom_method)
    images = load_dataset(dataset, split, size=loaded.transform.image_size)
    with both_cores(), Progress("episodes") as progress:
        score = score_on(loaded, EpisodeSampler(images, **episodes), n_episodes, progress)
    row = {"learner": str(learner), "dataset": dataset, "split": split, **episodes, "n_episodes": n_episodes}
    row |= {"accuracy": score.mean, "accuracy_ci95": score.ci95}
    task = f"{episodes['n_way']}-way {episodes['n_shot']}-shot, {n_episodes} episodes, {dataset} {split}"
    return Result(row, f"{score.mean:.2f} ± {score.ci95:.2f} % ({task})")


@main.command(short_help="Let a learner name pictures, by a few of each class.")
@learner_option
@support_option
@click.option("--query", multiple=True, type=click.Path(path_type=Path), help="A picture, or a folder of them.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path))
@click.option("--reject", type=float, metavar="SHARE", help="Say unknown where no class fits; see FewShotClassifier.")
@click.option("--csv", type=FILE, help="Write a table with all probabilities as well.")
@click.option("--sheet", type=FILE, help="Write a PNG: pictures, answers, and the nearest support image of each.")
def adapt(learner: Path, support: Path, query: tuple[Path, ...], more: tuple[Path, ...], **chosen: Any) -> Result:
    """Adapt a learner to the classes of a folder, and name the pictures of --query and MORE.

    An answer does not depend on the other pictures. (In the protocol of the tables, queries help each other.)
    """
    from freelib.run.pictures import answers, fitted, pictures_in, write_csv

    asked = pictures_in([*query, *more])
    classifier, shown = fitted(learner, support, reject=chosen["reject"])
    rows = answers(classifier, shown, asked)
    if chosen["csv"]:
        write_csv(rows, chosen["csv"])
    if chosen["sheet"]:
        from freelib.show import contact_sheet

        contact_sheet(rows, chosen["sheet"])
    return Result(rows, table(rows, "file", "class", "probability"))


@main.command(short_help="Write an adapted learner as one file, for ONNX or PyTorch.")
@learner_option
@support_option
@click.option("--onnx", type=FILE, help="File for ONNX's runtimes; needs freelib[onnx].")
@click.option("--pt2", type=FILE, help="File for torch.export.load.")
def export(learner: Path, support: Path, onnx: Path | None, pt2: Path | None) -> Result:
    """Adapt a learner to the classes of a folder, and write it as one file: from images to probabilities.

    Images are (n, 3, size, size), float in [0, 1], of the learner's size. An answer does not depend on the others of
    a call: what a "maml" or "anil" learner takes from all queries (statistics of BatchNorm) is the support set's.
    """
    from freelib.run.export import export as write
    from freelib.run.pictures import fitted

    if not (onnx or pt2):
        raise click.UsageError("Missing option '--onnx' or '--pt2'.")
    return Result(write(fitted(learner, support)[0], onnx=onnx, pt2=pt2))


@main.command()
def doctor() -> Result:
    """Say what is installed and found on this machine, and how to get what lacks."""
    from freelib.run.doctor import diagnosis

    return Result(diagnosis())


@main.command(short_help="Run the notebooks: every table and figure.")
@profile_option
@click.option("--notebook", "only", multiple=True, metavar="NAME", help="Only this one, such as 01_table1.")
@click.option("--dataset", "DATASETS", multiple=True, type=DATASET, help="Instead of the profile's.")
@click.option("--shots", "SHOTS", multiple=True, type=AT_LEAST_1, help="Instead of the profile's.")
@click.option("--seeds", "SEEDS", multiple=True, type=SEED, help="Instead of the profile's.")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="Set a parameter.")
@click.option("--notebooks", default="notebooks", type=FOLDER, help="Folder of the notebooks.")
@results_option
def reproduce(
    profile: str,
    only: tuple[str, ...],
    parameter: tuple[str, ...],
    notebooks: Path,
    results: Path,
    **choices: tuple[Any, ...],
) -> Result:
    """Run the notebooks in batch; the executed ones lie in RESULTS/PROFILE/notebooks.

    --notebook, --dataset, --shots, --seeds and -p are repeatable. A notebook that has no choice of data sets,
    shots or seeds keeps its own. VALUE is read as YAML, such as METHODS=[random, free].

    Runs whose record is in RESULTS/PROFILE/records are not made again, so a reproduction that was stopped
    goes on where it was. A notebook that fails is kept, with its error, and does not keep the others from
    running.
    """
    from freelib.run.reproduce import reproduce as run
    from freelib.run.units import parse_overrides

    goes_on()
    offered = {name: list(values) for name, values in choices.items() if values}
    folders = {"notebooks": notebooks, "results": results}
    return report(run(profile, only, offered=offered, required=parse_overrides(parameter), **folders))


@main.command(short_help="Say what the runs of all notebooks will take.")
@profile_option
@click.option("--dataset", "DATASETS", multiple=True, type=DATASET, help="Instead of the profile's.")
@click.option("--workers", default=8, type=AT_LEAST_1, help="Cores at work, for the wall-clock time.")
@click.option("--notebooks", default="notebooks", type=FOLDER, help="Folder of the notebooks.")
@results_option
def plan(profile: str, workers: int, notebooks: Path, results: Path, DATASETS: tuple[str, ...]) -> Result:
    """Say what the runs of all notebooks will take: core-hours, wall-clock time, memory, disk. Nothing is run.

    Hours are those of the processor of most records in RESULTS, by a model that is fitted to them; its error on
    held-out records is told. Measurements in notebooks that are no runs, and decoded images, are not in it.
    """
    from freelib.run.plan import summary

    told = summary(profile, notebooks, results, workers, **({"DATASETS": list(DATASETS)} if DATASETS else {}))
    return Result(told, "\n".join(f"{name.replace('_', ' ')}: {cell(value)}" for name, value in told.items()))


@main.command(short_help="List the notebooks, or execute the committed ones again.")
@click.argument("names", nargs=-1)
@click.option("--in-place", is_flag=True, help="Execute them, and write the outputs into them.")
@click.option("--folder", default="notebooks", type=FOLDER, help="Folder of the notebooks.")
@results_option
def notebooks(names: tuple[str, ...], in_place: bool, folder: Path, results: Path) -> Result:
    """List the notebooks with their parameters, or, with --in-place, execute the committed ones again.

    NAMES: some of them, such as 01_table1; all if left out. One that fails stays as it was; what it did until
    then is kept in RESULTS/failed.
    """
    from freelib.run.notebooks import find_notebooks, parameters
    from freelib.run.reproduce import execute_in_place

    if in_place:
        return report(execute_in_place(names, notebooks=folder, results=results))
    rows: list[dict[str, Any]] = [
        {"name": path.stem, "parameters": parameters(path)} for path in find_notebooks(folder, names)
    ]
    texts = [row | {"parameters": [f"{k}={v!r}" for k, v in row["parameters"].items()]} for row in rows]
    return Result(rows, table(texts))


def report(outcomes: Iterable[Any]) -> Result:
    """Where each executed notebook lies; those that failed are named on standard error, and the exit status is 1."""
    rows = [{"notebook": o.name, "path": str(o.path), "error": o.error} for o in outcomes]
    failed = [row for row in rows if row["error"]]
    for row in failed:
        complain(f"{row['notebook']}: {row['error']}\n  kept in {row['path']}")
    return Result(rows, "\n".join(row["path"] for row in rows if not row["error"]), 1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())

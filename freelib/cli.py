"""The command line, `freelib VERB …`: results on standard output, all else on standard error."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from freelib import __version__
from freelib.folders import make_folders_absolute

VERBS = {
    "data": "freelib.commands.data:data",
    "pool": "freelib.commands.pool:pool",
    "methods": "freelib.commands.methods:methods",
    "train": "freelib.commands.train:train",
    "evaluate": "freelib.commands.evaluate:evaluate",
    "reproduce": "freelib.commands.reproduce:reproduce",
    "report": "freelib.commands.report:report",
    "notebooks": "freelib.commands.notebooks:notebooks",
}


class Verbs(click.Group):
    """Commands that are imported when they are called, and errors as one sentence instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which one uses them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        return getattr(importlib.import_module(module), name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Bad input (ValueError, a missing file) ends with 2, other failures with 1."""
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # where a method of one's own may be
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            bad_input = isinstance(error, ValueError | FileNotFoundError)
            words = str(error) or type(error).__name__
            click.echo(f"freelib: {words}", err=True)
            if not bad_input and not ctx.params.get("debug"):
                click.echo("`freelib --debug …` shows where it happened.", err=True)
            ctx.exit(2 if bad_input else 1)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
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
      freelib reproduce                       every table and figure, on one page

    Environment: FREELIB_DATA (folder with the data sets), FREELIB_CACHE (decoded images, pools, checkpoints).
    Exit status: 0 done, 1 failed, 2 bad input.
    """
    make_folders_absolute()  # notebooks' kernels run in another folder


if __name__ == "__main__":
    sys.exit(main())

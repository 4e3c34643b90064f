"""Where data sets and caches lie: $FREELIB_DATA and $FREELIB_CACHE."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The given folder, else $FREELIB_CACHE, else the platform's place for a user's caches."""
    given = cache or os.environ.get("FREELIB_CACHE")
    if given:
        return Path(given).expanduser()
    return user_cache_path("freelib", appauthor=False, opinion=False)


MODELS = Path(__file__).parents[1] / "results" / "models"  # weights that come with a checkout of the project
IN_A_CLONE = "a git clone of freelib has some in results/models"


def named_folder(folder: str | Path) -> Path:
    """The folder, or, where it is not there, the one of that name in MODELS, if any."""
    return there if not Path(folder).exists() and (there := MODELS / folder).is_dir() else Path(folder)


def registrations_folder() -> Path:
    """Where data sets of one's own are registered: $FREELIB_CACHE/datasets, else the user's data folder."""
    given = os.environ.get("FREELIB_CACHE")
    return (cache_folder(given) if given else user_data_path("freelib", appauthor=False)) / "datasets"


def make_folders_absolute() -> None:
    """Makes $FREELIB_DATA and $FREELIB_CACHE absolute, for child processes that run in other folders."""
    for name in ("FREELIB_DATA", "FREELIB_CACHE"):
        if given := os.environ.get(name):
            os.environ[name] = str(Path(given).expanduser().resolve())


def check_writable(folder: Path) -> None:
    """Raises ValueError where nothing can be written into a folder, or where it would be made; makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"{there} can't be written into: choose another folder than {folder}.")

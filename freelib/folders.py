"""Where data sets and caches lie: $FREELIB_DATA and $FREELIB_CACHE."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The given folder, else $FREELIB_CACHE, else the platform's place for a user's caches."""
    given = cache or os.environ.get("FREELIB_CACHE")
    if given:
        return Path(given).expanduser()
    return user_cache_path("freelib", appauthor=False, opinion=False)


def make_folders_absolute() -> None:
    """Makes $FREELIB_DATA and $FREELIB_CACHE absolute, for child processes that run in other folders."""
    for name in ("FREELIB_DATA", "FREELIB_CACHE"):
        if given := os.environ.get(name):
            os.environ[name] = str(Path(given).expanduser().resolve())

"""Pictures in folders: a support set of class folders, and what a classifier says to others."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch.nn.functional as F

from freelib.classifier import FewShotClassifier, as_images
from freelib.datasets.sources import class_folders, files_or_folders
from freelib.run.learners import load_learner
from freelib.storage import write_atomically


def pictures_in(places: Iterable[Path]) -> list[Path]:
    """Files as they are, and what is in folders, or in theirs. Raises FileNotFoundError for one with nothing in it."""
    found = {place: [place] if place.is_file() else files_or_folders(place, folders=False) for place in places}
    for place in [place for place, files in found.items() if not files]:
        if not (below := files_or_folders(place, folders=True)):
            raise FileNotFoundError(f"{place} has no picture in it.")
        found[place] = pictures_in(below)
    return [file for files in found.values() for file in files]


def fitted(learner: Path, support: Path, **settings: Any) -> tuple[FewShotClassifier, list[Path]]:
    """The learner in a folder, fitted on a folder of class folders, and the files in these.

    Raises FileNotFoundError and ValueError for what is no learner, no support set or no picture.
    """
    classifier, shown = FewShotClassifier(load_learner(learner), **settings), pictures_in(class_folders(support, ()))
    if len({*(names := [file.parent.name for file in shown])}) < 2:
        raise ValueError(f"{support} is no support set: it takes <class>/<picture> of two classes or more.")
    return classifier.fit(shown, names), shown


def answers(classifier: FewShotClassifier, shown: Sequence[Path], asked: Sequence[Path]) -> list[dict[str, Any]]:
    """Of each picture asked: file, class, probability, probabilities by class, and which one shown is nearest.

    shown: what the classifier was fitted on; nearest: by the cosine of features, less the mean of those shown
    """
    transform = classifier.learner.transform
    images = (as_images(list(files), len(transform.mean), transform.image_size) for files in (shown, asked))
    known, others = (classifier.network_.embed(part.to(classifier.learner.device)) for part in images)
    places = F.normalize(others - known.mean(0), dim=1) @ F.normalize(known - known.mean(0), dim=1).T
    rows = zip(asked, classifier.predict(asked), classifier.predict_proba(asked), places.argmax(1), strict=True)
    return [
        {"file": str(file), "class": str(name), "probability": float(chances.max()), "nearest": str(shown[i])}
        | {"probabilities": dict(zip(map(str, classifier.classes_), chances.tolist(), strict=True))}
        for file, name, chances, i in rows
    ]


def write_csv(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """The answers as a table with a column for each class's probability."""
    cells = [{n: v for n, v in row.items() if n != "probabilities"} | row["probabilities"] for row in rows]
    write_atomically(file, pd.DataFrame(cells).to_csv(index=False).encode())

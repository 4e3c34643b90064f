"""The figures in `results/README.md`, each with what it shows and what its marks mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from freelib.experiments import figure7
from freelib.experiments.evidence import Evidence

EMBEDDED = {
    "figure1": (
        "Five steps of the meta-generator against recoveries from nothing",
        "Two rows a data set: agreement above, inversion loss below; against passes (left) and seconds "
        "(right), both on logarithmic axes. Thick lines are means over tasks of held-out models, thin lines "
        "the single tasks.",
    ),
    "figure1_meta_training": (
        "Models that the meta-generator never met, after five steps, while it trains",
        "Agreement (left) and inversion loss (right) after the last pass, a row a seed, a colour for each "
        "meta-learning rate. Thick lines are means over the models, thin lines the single models; round 0 is "
        "an untrained generator.",
    ),
    "figure2": (
        "The pool's models, and the distances of the tasks recovered from them",
        "Left: accuracy on held-out images of a model's own classes. Middle: distance of two tasks, one of "
        "a model's first recovery (rows) and one of a second (columns); white lines part the data sets. "
        "Right: the same by kind of pair; a dot is a pair, a diamond their mean with its 95 % interval "
        "over models drawn anew. Energy distance is 0 for two tasks of one distribution.",
    ),
    "figure3": (
        "One round of FREE, from a live run",
        "Left to right: the models drawn, with their held-out accuracy and classes; images recovered from "
        "each, with the agreement; the student's steps; the memory, and an episode of replay that mixes "
        "classes of several models. The steps are seen in a plane in which the lengths and the angle of the "
        "outer step and the summed gradients are true.",
    ),
    "figure4": (
        "The same real images as several models of the pool see them",
        "Images of meta-validation classes, which no model has seen, by t-SNE of each model's features; "
        "a colour and mark for each class. A title gives the model's held-out accuracy, and the purity: the "
        "share of an image's nearest neighbours, in the features, that are of its class.",
    ),
    "figure5": (
        "Agreement of the tasks' gradients while FREE trains",
        "Cosine (left) and inner product (right) of two tasks' gradients, mean over a round's pairs; a row "
        "a pool. Thick lines are means over seeds, thin lines the single seeds.",
    ),
    "figure6": (
        "Images recovered from one model, over more and more updates",
        "A row a class: real images of the class, which the recovery never sees, then images recovered from "
        "the same start after more and more updates. The percentages are the agreement.",
    ),
    "figure7": (
        "What FREE's accuracy owes to its settings",
        "A column a setting: accuracy above, agreement below, mean of the last rounds of training. The "
        "filled marker is the base, the same in all columns; at hollow ones the column's setting alone is "
        "changed. Error bars are 95 % over episodes, and do not cover the choice of the seed.",
    ),
    "lemma1_theorem1_residual": (
        "What Lemma 1's expansion leaves over",
        "A panel a number of tasks, a line an activation φ of a small network; both axes logarithmic, so "
        "that a slope is a power of α. Lines are geometric means over random problems, bands reach from "
        "the lowest to the highest.",
    ),
    "lemma1_theorem1_training": (
        "Inner products of the tasks' gradients while small problems are trained",
        "Left: aligned and summed steps. Middle: their paired difference. Right: the cosine. Lines are means "
        "over random problems, bands their 95 % intervals.",
    ),
    "table1_curves": (
        "Accuracy on the meta-validation classes while training",
        "A line a method and number of shots, over the share of its own training; without a number where one "
        "training serves all. Lines are means over seeds; where there are several, the shading reaches from "
        "the lowest seed to the highest. Methods with one look are named, not drawn.",
    ),
}
"""By name: a title, and what is seen."""


def figures(folder: Path, evidence: Evidence) -> Iterator[str]:
    """The section: each of `EMBEDDED` that is in a profile's results folder, and links to the others."""
    yield from ("## Figures", "")
    there = sorted((folder / "figures").glob("*.png"))
    for path in there:
        if path.stem in EMBEDDED:
            title, text = EMBEDDED[path.stem]
            yield from (f"![{title}]({folder.name}/figures/{path.name})", "", f"*{title}.* {text}", "")
            if path.stem == "figure7" and (records := evidence.runs("figure7").records):
                text = figure7.conclusion(figure7.rows(records), evidence.chance_floor)
                yield from (text, "")
    others = [
        f"[{path.stem}]({folder.name}/figures/{path.name})" for path in there if path.stem not in EMBEDDED
    ]
    yield from (f"More: {', '.join(others)}." if others else "No more figures yet.", "")

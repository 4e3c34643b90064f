"""What single experiments set for themselves in each profile: `Profile.for_experiment`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Mapping[str, Any]]

# Rows of tables 2 and 3: what learns without a pool of one architecture and one domain, and what is simplest.
MIXED_DOMAINS = (
    "random",
    "average",
    "ota",
    "dro",
    "best_teacher",
    "pool_features",
    "free",
    "pool_distillation",
)
MIXED_ARCHITECTURES = ("random", "best_teacher", "pool_features", "free", "pool_distillation")

_BRIEF: dict[str, Any] = {
    "n_episodes": 30,
    "validation_episodes": 5,
    "image_size": 16,
    "pool": {"n_models": 6, "epochs": 2, "width": 8},
    "overrides": {
        "*": {"width": 8},
        "free": {
            "warmup_rounds": 1,
            "rounds": 4,
            "meta_batch": 2,
            "ngf": 8,
            "images_per_class": 8,
            "align_sweeps": 2,
            "replay_batches": 1,
        },
        "pool_distillation": {
            "recovered": 64,
            "procedural": 192,
            "mixed": 256,
            "warmup_rounds": 1,
            "ngf": 8,
            "images_per_class": 8,
            "epochs": 2,
        },
    },
}
_HALF: dict[str, Any] = {
    "datasets": ("cifar-fs",),
    "shots": (1,),
    "overrides": {"free": {"rounds": 50}},
}

# Tables 2 to 4 have many runs: here each shows that its row works, and little more.
SMOKE: Settings = {
    "table2": {
        **_BRIEF,
        "datasets": ("glyphs-latin+glyphs-greek-cyrillic+glyphs-signs",),
        "image_size_by_dataset": {"glyphs-signs": 20},
        "methods": MIXED_DOMAINS,
        "pool": {"n_models": 4, "epochs": 4, "width": 8},
    },
    "table3": {
        **_BRIEF,
        "methods": MIXED_ARCHITECTURES,
        "pool_parts": (
            {"take": 4},
            {"archs": ("resnet10",), "width": 8, "n_models": 2},
            {"archs": ("resnet18",), "width": 8, "n_models": 1},
        ),
        "students": {"resnet10": {"width": 8}},
    },
    "table4": _BRIEF,
    "paper_size": _BRIEF,
    "pool_settings": {"pool": {"n_models": 2}, "shots": (1,), "pool_seed": None},
    "figure7": {
        **_BRIEF,
        "sensitivity": {
            "adapt_steps": (2, 5),
            "pool_size": (3, 6),
            "meta_batch": (2, 4),
            "images_per_class": (4, 8),
        },
    },
}

# Half of table 1's rounds, one number of shots: these tables have up to 15 runs of FREE a seed.
CPU: Settings = {
    "table2": {
        **_HALF,
        "datasets": ("cifar-fs+mini-imagenet+cub",),
        "methods": MIXED_DOMAINS,
        "image_size_by_dataset": {"mini-imagenet": 48, "cub": 48},
        "pool_by_dataset": {"mini-imagenet": {"n_models": 14}, "cub": {"n_models": 14, "epochs": 60}},
        "pool_parts": ({"take": 14},),  # of CIFAR-FS, the first of table 1's pool
        "n_episodes": 300,  # on each of the three
        "validation_episodes": 50,
    },
    "table3": {
        **_HALF,
        "methods": MIXED_ARCHITECTURES,
        "pool_parts": (
            {"take": 14},
            {"archs": ("resnet10",), "width": 16, "n_models": 6, "epochs": 20},
            {"archs": ("resnet18",), "width": 16, "n_models": 6, "epochs": 20},
        ),
        "students": {"resnet10": {"width": 16}},
    },
    "table4": _HALF,
    # Small pools of their own for each seed: what a setting of pre-training does has to show over pools.
    "pool_settings": {
        "datasets": ("cifar-fs",),
        "pool": {"n_models": 10},
        "pool_seed": None,
    },
    # The same settings where there are no photographs: one more data set than table 1 has.
    "beyond": {
        "datasets": ("cifar-fs", "mini-imagenet", "cub", "glyphs"),
        "seeds_by_dataset": {"glyphs": (0,)},
    },
    "figure7": {
        **_HALF,
        "sensitivity": {
            "adapt_steps": (1, 2, 5, 10),
            "pool_size": (5, 10, 20, 40),
            "meta_batch": (2, 4, 8),
            "images_per_class": (5, 10, 20),
        },
    },
}

PAPER: Settings = {
    "pool_settings": {
        "datasets": ("cifar-fs",),
        "seeds": (0, 1, 2),
        "pool": {"n_models": 10},
        "pool_seed": None,
    },
    "table2": {
        "datasets": ("cifar-fs+mini-imagenet+cub",),
        "methods": MIXED_DOMAINS,
        "pool_parts": ({"take": 34},),
    },
    "table3": {
        "datasets": ("cifar-fs",),
        "methods": MIXED_ARCHITECTURES,
        "pool_parts": (
            {"take": 34},
            {"archs": ("resnet10",), "n_models": 33},
            {"archs": ("resnet18",), "n_models": 33},
        ),
        "students": {"resnet10": {}},
    },
    "table4": {"datasets": ("cifar-fs",)},
    "figure7": {
        "datasets": ("cifar-fs",),
        "sensitivity": {
            "adapt_steps": (1, 2, 5, 10, 20),
            "pool_size": (10, 25, 50, 100),
            "meta_batch": (2, 4, 8),
            "images_per_class": (5, 10, 20, 40),
        },
    },
}

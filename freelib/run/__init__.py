"""A run: from a profile to units, from a unit to its record, from records to statistics."""

from freelib.run.evaluation import evaluate, mean_and_interval, paired_difference
from freelib.run.execute import GridError, run_units
from freelib.run.measure import computed, measured
from freelib.run.pools import get_pool
from freelib.run.profiles import PROFILES, Profile, get_profile
from freelib.run.records import Record, RecordStore, training_seconds
from freelib.run.runner import Run
from freelib.run.statistics import compare, episode_means, mean_over_seeds, one_seed_floor, significance
from freelib.run.units import Unit, grid, make_config, table_units, unit_config

__all__ = [
    "PROFILES",
    "GridError",
    "Profile",
    "Record",
    "RecordStore",
    "Run",
    "Unit",
    "compare",
    "computed",
    "episode_means",
    "evaluate",
    "get_pool",
    "get_profile",
    "grid",
    "make_config",
    "mean_and_interval",
    "mean_over_seeds",
    "measured",
    "one_seed_floor",
    "paired_difference",
    "run_units",
    "significance",
    "table_units",
    "training_seconds",
    "unit_config",
]

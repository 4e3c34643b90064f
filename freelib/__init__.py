"""freelib: data-free meta-learning, from a pool of pre-trained classifiers to a learner of new classes.

The names below are what a person needs; each is imported when it is first asked for, so that `import freelib`
and the command line's help are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_FROM = {
    "PretrainedModel": "freelib.models.pretrained",
    "ModelPool": "freelib.models.pool",
    "read_pool": "freelib.models.readers",
    "PoolConfig": "freelib.models.pretraining",
    "pretrain_pool": "freelib.models.pretraining",
    "FewShotDataset": "freelib.datasets",
    "load_dataset": "freelib.datasets",
    "EpisodeSampler": "freelib.datasets.episodes",
    "MetaGenerator": "freelib.generator",
    "MetaLearner": "freelib.meta_learner",
    "FewShotClassifier": "freelib.classifier",
    "Method": "freelib.methods",
    "MethodConfig": "freelib.methods",
    "get_method": "freelib.methods",
    "evaluate": "freelib.run.evaluation",
    "meta_train": "freelib.run.budget",
    "run_units": "freelib.run.execute",
    "compare": "freelib.run.statistics",
    "save_learner": "freelib.run.learners",
    "load_learner": "freelib.run.learners",
}

__all__ = list(_FROM)

if TYPE_CHECKING:
    from freelib.classifier import FewShotClassifier as FewShotClassifier
    from freelib.datasets import FewShotDataset as FewShotDataset
    from freelib.datasets import load_dataset as load_dataset
    from freelib.datasets.episodes import EpisodeSampler as EpisodeSampler
    from freelib.generator import MetaGenerator as MetaGenerator
    from freelib.meta_learner import MetaLearner as MetaLearner
    from freelib.methods import Method as Method
    from freelib.methods import MethodConfig as MethodConfig
    from freelib.methods import get_method as get_method
    from freelib.models.pool import ModelPool as ModelPool
    from freelib.models.pretrained import PretrainedModel as PretrainedModel
    from freelib.models.pretraining import PoolConfig as PoolConfig
    from freelib.models.pretraining import pretrain_pool as pretrain_pool
    from freelib.models.readers import read_pool as read_pool
    from freelib.run.budget import meta_train as meta_train
    from freelib.run.evaluation import evaluate as evaluate
    from freelib.run.execute import run_units as run_units
    from freelib.run.learners import load_learner as load_learner
    from freelib.run.learners import save_learner as save_learner
    from freelib.run.statistics import compare as compare


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module 'freelib' has no attribute {name!r}")
    return getattr(importlib.import_module(_FROM[name]), name)

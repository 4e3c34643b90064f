import pytest

from freelib.inversion import InversionConfig
from freelib.methods.base import MethodConfig
from freelib.methods.bidf_mkd import BidfMkdConfig
from freelib.methods.dro import DroConfig
from freelib.methods.free import FreeConfig
from freelib.methods.oracles import OracleConfig, OracleProtonetConfig
from freelib.methods.ota import OtaConfig
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.methods.prototypes import PoolFeaturesConfig, PoolOpinionsConfig
from freelib.methods.purer import PurerConfig
from freelib.models.pretraining import PoolConfig
from freelib.settings import check_device

NAN, INF = float("nan"), float("inf")
KINDS = ("alignment", "align_optimizer", "distillation", "replay_scope", "memory_tasks", "kd_heads", "recovery")

CASES: dict[str, list[tuple[type, str, object]]] = {
    "must be at least": [
        (MethodConfig, "n_query", 0), (MethodConfig, "n_way", 1), (MethodConfig, "width", 0),
        (MethodConfig, "inner_lr", -1.0), (MethodConfig, "inner_lr", NAN), (InversionConfig, "ngf", 0),
        (InversionConfig, "augment_padding", -1), (InversionConfig, "adapt_steps", 0), (FreeConfig, "rounds", -1),
        (FreeConfig, "replay_episodes", 0), (FreeConfig, "adapt_steps", 0), (FreeConfig, "scratch_steps", 0),
        (BidfMkdConfig, "adapt_steps", 0), (DroConfig, "round_steps", 0), (DroConfig, "meta_batch", 0),
        (DroConfig, "embedding_dim", 0), (DroConfig, "draws", -1), (PurerConfig, "episodes", 0),
        (PurerConfig, "meta_batch", 0), (PurerConfig, "n_query", 0), (PurerConfig, "icfil_images", 0),
        (PoolDistillationConfig, "lr", -1.0), (PoolDistillationConfig, "embedding", 0),
        (PoolDistillationConfig, "meta_batch", 0), (PoolDistillationConfig, "epochs", 0),
        (PoolDistillationConfig, "batch_size", 1), (PoolDistillationConfig, "mixed", -1),
        (PoolOpinionsConfig, "embedding", 0), (PoolOpinionsConfig, "procedural", 0),
        (PoolOpinionsConfig, "procedural", 1), (OracleConfig, "round_batches", 0),
        (OracleProtonetConfig, "meta_batch", 0), (PoolConfig, "n_models", 0), (PoolConfig, "n_way", 1),
        (PoolConfig, "width", -4),
    ],
    "must be above 0": [
        (PoolDistillationConfig, "temperature", 0.0), (PoolOpinionsConfig, "temperature", 0.0),
        (PoolOpinionsConfig, "temperature", -1.0), (OtaConfig, "regularisation", 0.0), (DroConfig, "gamma", 0.0),
    ],
    "must be finite": [
        (MethodConfig, "inner_lr", INF), (FreeConfig, "lambda_bn", NAN), (FreeConfig, "generator_lr", NAN),
        (PoolConfig, "learning_rate", NAN), (DroConfig, "gamma", NAN), (DroConfig, "ascent_lr", INF),
        (PoolDistillationConfig, "student_whitening", INF), (PoolOpinionsConfig, "whitening", NAN),
    ],
    "is one of": [
        (MethodConfig, "head", "foo"), (MethodConfig, "arch", "foo"), (PoolOpinionsConfig, "head", "maml"),
        (PoolOpinionsConfig, "centre", "foo"), (PoolFeaturesConfig, "head", "maml"),
        (PoolFeaturesConfig, "centre", "foo"), (PoolConfig, "precision", "float16"), (OtaConfig, "transport", "foo"),
        (PoolDistillationConfig, "centre", "episodes"), (PoolDistillationConfig, "head", "maml"),
        (PoolDistillationConfig, "teach", "logits"), (BidfMkdConfig, "replay_scope", "far"),
        *((FreeConfig, kind, "other") for kind in KINDS),
    ],
    "are some of conv4": [(PoolConfig, "archs", ()), (PoolConfig, "archs", ("conv4", "foo"))],
    "is a share between 0 and 1": [(PoolConfig, "holdout", 1.0)],
    "which torch does not find": [(MethodConfig, "device", "foo")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "config", "field", "value"), [(words, *case) for words, cases in CASES.items() for case in cases]
)
def test_settings_that_cannot_be(words, config, field, value):
    with pytest.raises(ValueError, match=rf"^{field} .*{words}.*"):
        config(**{field: value})


def test_plain_fusion_is_an_infinite_gamma():
    assert DroConfig(gamma=INF).gamma == INF


def test_a_device_of_another_machine_is_no_error_before_it_is_used():
    check_device("cuda:99")
    with pytest.raises(ValueError, match="device is 'cuda:99', which torch does not find"):
        check_device("cuda:99", here=True)
    check_device("cpu", here=True)

"""What settings have to be: in range, finite, one of what there is."""

from __future__ import annotations

import pytest

from freelib.inversion import InversionConfig
from freelib.methods.base import MethodConfig
from freelib.methods.dro import DroConfig
from freelib.methods.free import FreeConfig
from freelib.methods.oracles import OracleConfig, OracleProtonetConfig
from freelib.methods.ota import OtaConfig
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.methods.pool_features import PoolFeaturesConfig
from freelib.methods.pool_opinions import PoolOpinionsConfig
from freelib.methods.purer import PurerConfig
from freelib.models.pretraining import PoolConfig
from freelib.settings import check_device

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MethodConfig(n_query=0), "n_query must be at least 1, got 0"),
        (lambda: MethodConfig(n_way=1), "n_way must be at least 2"),
        (lambda: MethodConfig(width=0), "width must be at least 1"),
        (lambda: MethodConfig(inner_lr=-1.0), "inner_lr must be at least 0"),
        (lambda: MethodConfig(inner_lr=float("nan")), "inner_lr must be at least 0, got nan"),
        (lambda: MethodConfig(inner_lr=INF), "inner_lr must be finite, got inf"),
        (lambda: MethodConfig(head="foo"), "head is one of maml, anil, prototypes, got 'foo'"),
        (lambda: MethodConfig(arch="foo"), "arch is one of conv4, resnet10, resnet18, got 'foo'"),
        (lambda: MethodConfig(device="foo"), "device is 'foo', which torch does not find"),
        (lambda: FreeConfig(lambda_bn=NAN), "lambda_bn must be finite, got nan"),
        (lambda: FreeConfig(generator_lr=NAN), "generator_lr must be finite"),
        (lambda: PoolConfig(learning_rate=NAN), "learning_rate must be finite"),
        (lambda: DroConfig(gamma=NAN), "gamma must be finite"),
        (lambda: DroConfig(ascent_lr=INF), "ascent_lr must be finite"),
        (lambda: PoolDistillationConfig(student_whitening=INF), "student_whitening must be finite"),
        (lambda: PoolDistillationConfig(lr=-1.0), "lr must be at least 0, got -1.0"),
        (lambda: PoolDistillationConfig(temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: PoolOpinionsConfig(whitening=NAN), "whitening must be finite"),
        (lambda: PoolOpinionsConfig(temperature=0.0), "temperature must be above 0"),
        (lambda: PoolOpinionsConfig(temperature=-1.0), "temperature must be above 0"),
        (lambda: PoolOpinionsConfig(embedding=0), "embedding must be at least 1"),
        (lambda: PoolOpinionsConfig(procedural=0), "procedural must be at least 2"),
        (lambda: PoolOpinionsConfig(procedural=1), "procedural must be at least 2"),
        (lambda: PoolOpinionsConfig(head="maml"), "head is one of prototypes, got 'maml'"),
        (lambda: PoolOpinionsConfig(centre="foo"), "centre is one of none, support, episode"),
        (lambda: PoolFeaturesConfig(head="maml"), "head is one of prototypes, got 'maml'"),
        (lambda: PoolFeaturesConfig(centre="foo"), "centre is one of none, support, episode"),
        (lambda: OtaConfig(regularisation=0.0), "regularisation must be above 0, got 0.0"),
        (lambda: InversionConfig(ngf=0), "ngf must be at least 1"),
        (lambda: InversionConfig(augment_padding=-1), "augment_padding must be at least 0"),
        (lambda: FreeConfig(rounds=-1), "rounds must be at least 0"),
        (lambda: FreeConfig(replay_episodes=0), "replay_episodes must be at least 1"),
        (lambda: DroConfig(round_steps=0), "round_steps must be at least 1"),
        (lambda: DroConfig(meta_batch=0), "meta_batch must be at least 1"),
        (lambda: DroConfig(embedding_dim=0), "embedding_dim must be at least 1"),
        (lambda: PurerConfig(episodes=0), "episodes must be at least 1"),
        (lambda: PurerConfig(meta_batch=0), "meta_batch must be at least 1"),
        (lambda: PurerConfig(n_query=0), "n_query must be at least 1"),
        (lambda: PurerConfig(icfil_images=0), "icfil_images must be at least 1"),
        (lambda: OracleConfig(round_batches=0), "round_batches must be at least 1"),
        (lambda: OracleProtonetConfig(meta_batch=0), "meta_batch must be at least 1"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_plain_fusion_is_an_infinite_gamma():
    assert DroConfig(gamma=INF).gamma == INF


def test_a_device_of_another_machine_is_no_error_before_it_is_used():
    check_device("cuda:99")
    with pytest.raises(ValueError, match="device is 'cuda:99', which torch does not find"):
        check_device("cuda:99", here=True)
    check_device("cpu", here=True)

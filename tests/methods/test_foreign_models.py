"""Networks as people have them: accepted with the right numbers, or refused by name before any work."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from small_methods import small
from tiny_models import own, rng
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from freelib import get_method
from freelib.inversion import InversionConfig, inversion_loss
from freelib.methods.ensemble import ProbabilityEnsemble
from freelib.models.pool import ModelPool, check_batchnorm

IMAGES, LABELS = torch.rand(4, 3, 16, 16, generator=rng()), torch.arange(4)
GROUPS = partial(nn.GroupNorm, 2)


def conv(n: int = 5, norm=nn.BatchNorm2d, seed: int = 0) -> nn.Sequential:
    """A convolution, a norm, a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(512, n)).eval()


def pool_of(*modules: nn.Module) -> ModelPool:
    about = {"class_names": list("abcde"), "std": [0.25] * 3, "image_size": 16}
    return ModelPool.from_models(
        own(module, name=f"theirs-{i}", domain=str(i), **about) for i, module in enumerate(modules)
    )


class Around(nn.Module):
    """A network, what is done before and after it, and a mask that is not finite."""

    def __init__(self, net: nn.Module, after=lambda y: y, before=lambda x: x) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, pixel_values=None, labels=None):
        return self.after(self.net(self.before(pixel_values)))


FORMS = {
    "float16": lambda: conv().half(),
    "bfloat16": lambda: conv().bfloat16(),
    "float64": lambda: conv().double(),
    "float32 outside": lambda: Around(conv().bfloat16(), torch.Tensor.float, torch.Tensor.bfloat16),
    "object": lambda: Around(conv(), lambda y: SimpleNamespace(logits=y, hidden=y + 1)),
    "named": lambda: Around(conv(), lambda y: {"hidden": y + 1, "logits": y}),
    "alone": lambda: Around(conv(), lambda y: {"out": y}),
    "tuple": lambda: Around(conv(), lambda y: (y, y + 1)),
    "list": lambda: Around(conv(), lambda y: [y]),
    "compiled": lambda: torch.compile(conv(), backend="eager"),
    "TorchScript": lambda: torch.jit.script(conv()),
    "parallel": lambda: nn.DataParallel(conv()),
    "synchronised": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(conv()),
    "int8": lambda: torch.ao.quantization.quantize_dynamic(conv(), {nn.Linear}),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_another_form_answers_as_the_plain_one(form):
    pool, exact = pool_of(FORMS[form]()), conv()((IMAGES - 0.5) / 0.25)
    answers = pool[0](IMAGES)
    assert answers.dtype == (torch.float64 if form == "float64" else torch.float32)
    torch.testing.assert_close(answers.float(), exact, atol=0.02, rtol=0.02)
    for precision in ("float32", "bfloat16"):
        shares = ProbabilityEnsemble(pool, temperature=1.0, precision=precision).answers(IMAGES).square()
        torch.testing.assert_close(shares, exact.softmax(1), atol=0.01, rtol=0.01)


def test_free_learns_from_a_pool_of_which_some_have_batchnorm():
    net = conv()
    plain, compiled = pool_of(net), pool_of(torch.compile(conv(), backend="eager"))
    assert compiled.digest == plain.digest
    assert torch.equal(compiled[0].features(IMAGES), plain[0].features(IMAGES))
    net.features = lambda x: (net[0](x).mean((2, 3)), x)
    assert torch.equal(plain[0].features(IMAGES), net[0]((IMAGES - 0.5) / 0.25).mean((2, 3)))
    pool = pool_of(conv(), conv(norm=GROUPS))
    history = get_method("free").meta_train(pool, small("free", n_shot=1, lambda_bn=0.05), seed=0).log.history
    assert len(history["round"]) == 4


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda: Around(conv(), lambda y: 0 * y + 1), "gives every image the same logits: was its last layer loaded"),
        (lambda: Around(conv(), before=lambda x: F.dropout(x, 0.3)), "differently each time: switch its dropout off"),
        (lambda: conv().to("meta"), r"0\.weight has no values yet"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), r"1\.weight has no values yet"),
        (lambda: conv(1), r"two images give \(2, 1\), expected logits \(2, 5\)"),
        (lambda: nn.Sequential(conv(1), nn.Flatten(0)), r"two images give \(2,\), expected"),
        (lambda: Around(conv(), lambda y: {"a": y, "b": y}), "a dict with a, b is no tensor: wrap the network"),
        (lambda: Around(conv(), lambda y: None), "a NoneType is no tensor"),
        (lambda: Around(conv(), lambda y: y / torch.tensor([[1.0], [0]])), "logits of a noise image are not finite"),
    ],
)
def test_networks_that_no_method_can_use_are_named(module, words):
    with pytest.raises(ValueError, match=f"theirs-0.*{words}"):
        pool_of(module())


@pytest.mark.parametrize("norm", [nn.SyncBatchNorm, FrozenBatchNorm2d])
def test_batchnorm_is_known_by_what_it_holds_and_leaves_itself_out_where_there_is_none(norm):
    config, found = InversionConfig(lambda_ce=0.0, lambda_bn=1.0), conv(norm=norm)
    found.load_state_dict(conv().state_dict(), strict=False)
    pool = pool_of(conv(), found, conv(norm=GROUPS))
    plain, same, none = (float(inversion_loss(model, IMAGES, LABELS, config)[0]) for model in pool)
    assert plain == same > none == 0
    check_batchnorm(pool[1:])
    with pytest.raises(ValueError, match="No model of the pool has a BatchNorm layer with running statistics: set la"):
        check_batchnorm(pool[2:])


@pytest.mark.parametrize(
    ("name", "settings", "refused"),
    [
        ("free", {"warmup_rounds": 0, "n_shot": 1}, True),
        ("bidf_mkd", {}, True),
        ("purer", {"lambda_bn": 0.0}, True),
        ("pool_distillation", {"lambda_bn": 0.0}, True),
        ("pool_distillation", {"recovered": 0}, False),
        ("bidf_mkd", {"black_box": True, "directions": 2}, False),
        ("pool_opinions", {}, False),
    ],
)
def test_a_model_without_gradients_serves_what_only_calls_it(name, settings, refused):
    method, pool = get_method(name), pool_of(conv(), Around(conv(seed=1), torch.Tensor.detach))
    if refused:
        with pytest.raises(ValueError, match="theirs-1 lets no gradient through"):
            method.meta_train(pool, small(name, **settings), seed=0)
    else:
        learner = method.meta_train(pool, small(name, **settings), seed=0)
        assert learner.adapt(IMAGES, LABELS).predict(IMAGES).shape == (4,)

"""A folder of someone's own models becomes a pool, or what is wrong with it is named."""

import json
import os
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_model
from tiny_models import rng, tiny_model
from torch import nn

from freelib.cli import main
from freelib.models.pretrained import save_member
from freelib.models.readers import import_pool, read_pool
from freelib.storage import load_weights, save_tensors


def flat_net(n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, n_classes))


def conv_net(n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, n_classes))


ARCHITECTURES = {"flat": flat_net, "conv": conv_net}
CARD = {"arch": "flat", "class_names": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 8}
OTHER = {"arch": "conv", "class_names": ["d", "e"]}


def write(folder: Path, name: str, **changes) -> None:
    card = {key: value for key, value in (CARD | changes).items() if value is not None}
    (folder / f"{name}.json").write_text(json.dumps(card))


@pytest.fixture
def folder(tmp_path):
    """Two models: a state dictionary as torch.save writes it, and safetensors."""
    write(tmp_path, "first", notes=["what freelib does not know of"], seconds="three hours")
    torch.save(flat_net(3).state_dict(), tmp_path / "first.pt")
    write(tmp_path, "second", **OTHER, accuracy=0.75)
    save_tensors(tmp_path / "second.safetensors", conv_net(2).state_dict())
    return tmp_path


def test_a_folder_becomes_a_pool(folder):
    pool = read_pool(folder, ARCHITECTURES)
    first, second = pool
    assert [model.name for model in pool] == ["first", "second"]
    assert (first.class_names, second.n_way, second.accuracy) == (("a", "b", "c"), 2, 0.75)
    images = torch.rand(4, 3, 8, 8, generator=rng())
    weights = torch.load(folder / "first.pt", weights_only=True)
    expected = ((images - 0.5) / 0.2).flatten(1) @ weights["1.weight"].T + weights["1.bias"]
    torch.testing.assert_close(first(images), expected)
    assert not second.module.training
    assert not any(p.requires_grad for p in second.module.parameters())
    assert second.features(images).shape == (4, 72)
    write(folder, "second", **OTHER | {"class_names": ["c", "d"]})
    with pytest.raises(ValueError, match=r"first and second both have a class 'c'"):
        read_pool(folder, ARCHITECTURES)
    write(folder, "first", domain="one")
    write(folder, "second", **OTHER | {"class_names": ["c", "d"]}, domain="two")
    assert len(read_pool(folder, ARCHITECTURES).classes) == 5


def cut(folder: Path, share: float) -> None:
    whole = (folder / "first.pt").read_bytes()
    (folder / "first.pt").write_bytes(whole[: int(share * len(whole))])


def pack(file: Path) -> None:
    """The same archive, packed, with 64 MB of zeros."""
    with zipfile.ZipFile(file) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in (parts | {"archive/data/9": bytes(2**26)}).items():
            packed.writestr(name, data)


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


STATE = flat_net(3).state_dict()
BESIDE = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "epoch": 9, "loss": 0.3}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


NEVER_ENDING = [
    (os.mkfifo, "is no regular file"),
    (lambda file: file.symlink_to("/dev/zero"), "is no regular file"),
    (lambda file: (file.touch(), os.truncate(file, 2**40)), "has 1,099,511,627,776 bytes, more than"),
]


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda f: write(f, "first", arch=["flat"]), ValueError, "first.json: arch must be a name"),
        (lambda f: write(f, "first", arch="vgg"), ValueError, "arch is 'vgg', expected one of flat, conv"),
        (lambda f: write(f, "first", image_size=9), ValueError, "first can't answer images"),
        (lambda f: write(f, "first", class_names=["a", "b"]), ValueError, "not fit the architecture flat"),
        (lambda f: write(f, "first", mean=None), ValueError, "first.json .* lacks mean"),
        (lambda f: write(f, "first", std=[0.2]), ValueError, "first.json: mean and std"),
        (lambda f: write(f, "first", accuracy=75), ValueError, "first.json: accuracy must be"),
        (lambda f: (f / "first.json").write_text("["), ValueError, "first.json is no JSON object"),
        (lambda f: remove(f, "first.json"), ValueError, "first.pt has no first.json beside it"),
        (lambda f: remove(f, "first.pt"), ValueError, "first.json has 0 files of weights"),
        (lambda f: save_tensors(f / "first.safetensors", {}), ValueError, "has 2 files of weights"),
        (lambda f: remove(f, "first.json", "second.json"), FileNotFoundError, "has no model"),
        *((partial(cut, share=share), ValueError, "first.pt is damaged") for share in (0.3, 0.6, 0.9)),
        (lambda f: torch.save({"1.weight": print}, f / "first.pt"), ValueError, "refused"),
        (lambda f: write(f, "first", image_size=30_000), ValueError, "image_size must be a whole number from 1 to"),
        (lambda f: write(f, "first", arch="timm/hf-hub:x"), ValueError, "timm(/hf-hub:x', expected| is not inst)"),
        (lambda f: (f / "first.json").write_text('{"a":' * 10**5), ValueError, "first.json is no JSON object"),
        (lambda f: pack(f / "first.pt"), ValueError, "first.pt unpacks to more than it holds"),
        (
            lambda f: torch.save(BESIDE, f / "first.pt"),
            ValueError,
            "no state dictionary .* keys optimizer, epoch, loss",
        ),
        (
            lambda f: torch.save(prefixed("a.") | prefixed("b."), f / "first.pt"),
            ValueError,
            r"several .*, under a\., b\.",
        ),
        (lambda f: torch.save({"other": torch.ones(2)}, f / "first.pt"), ValueError, "(?s)flat: .*Missing key"),
        *(
            (lambda f, name=name, put=put: (remove(f, name), put(f / name)), ValueError, f"{name} {words}")
            for name in ("first.json", "first.pt")
            for put, words in NEVER_ENDING
        ),
    ],
)
def test_what_does_not_fit_is_named(folder, damage, error, words):
    damage(folder)
    with pytest.raises(error, match=words):
        read_pool(folder, ARCHITECTURES)


@pytest.mark.parametrize(
    "content",
    [
        {"teacher": STATE, "specific": [3, 17]},
        *(BESIDE | {name: STATE} for name in ("model_state_dict", "model", "net", "params", "state", "state_dict")),
        {"model": {"state_dict": STATE}, "args": {"lr": 0.1}},
        {"state_dict": {name: 0 * tensor for name, tensor in STATE.items()}, "state_dict_ema": STATE},
        {"model_ema": {"n_averaged": torch.tensor(3)} | prefixed("module.")},
        {"ema": {"decay": 0.99, "shadow": STATE}},
        *(prefixed(prefix) for prefix in ("module.", "_orig_mod.")),
        prefixed("module._orig_mod.") | {"criterion.weight": torch.ones(7)},
        {"state_dict": prefixed("model."), "pytorch-lightning_version": "2"},
        {name: tensor.half() for name, tensor in STATE.items()},
    ],
)
def test_weights_are_found_in_what_training_scripts_save(folder, content):
    torch.save(content, folder / "first.pt")
    found = read_pool(folder, ARCHITECTURES)[0].module.state_dict()
    assert all(found[name].dtype == torch.float32 for name in STATE)
    assert all(torch.allclose(found[name], tensor, atol=1e-4) for name, tensor in STATE.items())


def tied(n: int) -> nn.Module:
    """One convolution used twice, under two names."""
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(48, n))
    net[1].weight = net[0].weight
    return net


def test_a_lacking_library_is_named_and_of_tied_weights_a_file_may_have_one(folder, monkeypatch):
    net = tied(3)
    remove(folder, "first.pt")
    save_model(net, str(folder / "first.safetensors"))
    assert torch.equal(read_pool(folder, {"flat": tied, "conv": conv_net})[0].module[1].weight, net[0].weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(net, {"3.weight": net[3].weight})
    write(folder, "first", arch="timm/resnet18")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed .*: pip install 'freelib\[timm\]'"):
        read_pool(folder)


IMAGES = torch.rand(3, 3, 40, 40, generator=rng())
NAMES = ["cat", "dog", "owl"]


def of_torchvision(folder: Path) -> nn.Module:
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=3).eval()
    write(folder, "a", arch="shufflenet_v2_x0_5", class_names=NAMES, image_size=32, domain="a")
    torch.save(net.state_dict(), folder / "a.pth")
    return net


def of_timm(folder: Path) -> nn.Module:
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_vit", num_classes=3, img_size=32).eval()
    given = {"mean": [0.5] * 3, "std": [0.2] * 3, "input_size": [3, 32, 32], "interpolation": "bicubic"}
    asked = {"img_size": 32, "pretrained": True, "checkpoint_path": "missing.pth"}  # of which one is heeded
    config = {"architecture": "test_vit", "label_names": NAMES, "pretrained_cfg": given, "model_args": asked}
    save_tensors(folder / "b" / "model.safetensors", net.state_dict())
    (folder / "b" / "config.json").write_text(json.dumps(config | {"num_classes": 3, "domain": "b"}))
    return net


def of_transformers(folder: Path) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes, id2label=dict(enumerate(NAMES)))
    net = transformers.ViTForImageClassification(config).eval()
    net.save_pretrained(folder / "c")
    seen = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": {"height": 32, "width": 32}, "resample": 3}
    (folder / "c" / "preprocessor_config.json").write_text(json.dumps(seen))
    return net


def of_onnx(folder: Path) -> nn.Module:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    net, made = flat_net(3), onnx.helper
    nodes = [made.make_node("Flatten", ["x"], ["f"]), made.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)]
    weights = zip("wb", net[1].parameters(), strict=True)
    constants = [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in weights]
    shapes = {"x": [2, 3, 8, 8], "y": [2, 3]}  # two images at a time
    ends = [made.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = made.make_graph(nodes, "flat", ends[:1], ends[1:], constants)
    model = made.make_model(graph, opset_imports=[made.make_opsetid("", 17)], ir_version=9)
    (folder / "d.onnx").write_bytes(model.SerializeToString())
    write(folder, "d", arch=None, class_names=NAMES, image_size=8, domain="d")
    return net


FORMS = [of_torchvision, of_timm, of_transformers, of_onnx]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_and_imported_with_the_network_s_own_answers(tmp_path, form):
    folder = tmp_path / "theirs"
    folder.mkdir()
    net, (model,) = form(folder), read_pool(folder)
    x = model.transform(IMAGES)
    with torch.no_grad():
        answers = net(x)
    torch.testing.assert_close(model(IMAGES), getattr(answers, "logits", answers), atol=1e-4, rtol=1e-4)
    assert x.shape[-1] == (8 if form is of_onnx else 32)
    assert (model.class_names, model.std[0]) == (tuple(NAMES), 0.2)
    if (whole := folder / model.name).is_dir():  # it may itself be given
        assert read_pool(whole).digest == read_pool(folder).digest
    pool = import_pool(folder, tmp_path / "pool")
    assert pool.digest == read_pool(folder).digest == read_pool(tmp_path / "pool").digest
    assert torch.equal(pool[0](IMAGES), model(IMAGES))


def test_a_mixed_folder_becomes_a_pool_of_the_command_line(tmp_path, monkeypatch):
    save_member(tiny_model(n_way=3, image_size=32), tmp_path / "theirs")
    for form in FORMS:
        form(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    for words, code, said in (
        ("pool import theirs --out pool", 0, "conv4, onnx, timm/test_vit, torchvision/shufflenet_v2_x0_5, transf"),
        ("pool show pool --json", 0, '"arch": "timm/test_vit"'),
        ("train pool_opinions --pool pool --out learner --set procedural=32", 0, "saved in learner"),
        ("pool import theirs --out pool", 2, "pool is there already: choose another folder"),
        ("train free --pool pool --out other", 2, "d can only be called, and this method needs the models' gradients"),
        ("train pool_features --pool pool --out other", 2, "d can only be called, and this method needs the models' w"),
    ):
        result = CliRunner().invoke(main, words.split())
        assert (result.exit_code, said in result.output) == (code, True), result.output


def changed(file: Path, **changes) -> None:
    file.write_text(json.dumps({k: v for k, v in (json.loads(file.read_text()) | changes).items() if v is not None}))


@pytest.mark.parametrize(
    ("form", "damage", "words"),
    [
        (of_timm, lambda f: changed(f / "b/config.json", pretrained_cfg=None), "image classifier: .*input_size"),
        (of_timm, lambda f: changed(f / "b/config.json", label_names=["cat"]), "class_names must be"),
        (of_timm, lambda f: changed(f / "b/config.json", architecture="hf-hub:x/y"), "arch is 'timm/hf-hub:x/y'"),
        (of_timm, lambda f: remove(f, "b/model.safetensors"), "neither model.safetensors nor"),
        (of_transformers, lambda f: changed(f / "c/config.json", architectures=["ViTModel"]), "a ViTModel, expected"),
        (of_transformers, lambda f: remove(f, "c/preprocessor_config.json"), "preprocessor_config.json is missing"),
        (of_transformers, lambda f: save_tensors(f / "c/model.safetensors", {}), "not fit the .*vit: it lacks"),
        (of_onnx, lambda f: (f / "d.onnx").write_bytes(b"123"), "is no ONNX model that onnxruntime can run"),
    ],
)
def test_what_is_wrong_with_a_library_s_files_is_named(tmp_path, form, damage, words):
    form(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_pool(tmp_path)

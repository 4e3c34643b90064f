"""Pages, guide and packaging: code runs, numbers are the records', links lead somewhere, versions agree."""

import ast
import doctest
import importlib
import pydoc
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from tiny_models import tiny_pool

import freelib
from freelib import PretrainedModel, get_method
from freelib.datasets.glyphs import GlyphSource
from freelib.models.backbones import build_backbone
from freelib.models.pretrained import save_member

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"
MOST_WORDS = {"README.md": 1_100, "results/README.md": 2_600, "results/reliability.md": 650}
SHOWING = [path for path in sorted((ROOT / "freelib").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


def python_of(page: str) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.stem)
def test_what_the_guide_names_is_there(page):
    named = re.findall(r"\]\(#(freelib[\w.]+)\)", page.read_text(encoding="utf-8"))
    assert [name for name in named if pydoc.locate(name) is None] == []


def test_the_method_as_printed_trains(monkeypatch, tmp_path):
    (tmp_path / "printed_method.py").write_text(python_of("CONTRIBUTING.md")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    method = get_method("printed_method:Noise")
    sys.modules.pop("printed_method")
    config = method.Config(rounds=30, images=16, width=8)
    learners = [method.meta_train(tiny_pool(), config, seed=0) for _ in range(2)]
    untrained = method.build(tiny_pool(), config, seed=0)
    first, second, start = (learner.params["encoder.0.conv.weight"] for learner in (*learners, untrained))
    assert torch.equal(first, second)
    assert not torch.equal(first, start)
    losses = learners[0].log.history["loss"]
    assert len(losses) == 30
    assert sum(losses[-10:]) < sum(losses[:10])


def test_the_guide_s_pictures_are_named(tmp_path, monkeypatch, capsys):
    code = python_of("docs/guide/pictures.md")[0]
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog", "what"):
        Image.new("RGB", (40, 30), "navy" if name == "cat" else "gold").save(f"{name}.jpg")
    monkeypatch.setattr("freelib.ModelPool.load", lambda _: tiny_pool())
    assert code.count("minutes=5") == 1
    small = "recovered=0, procedural=40, mixed=0, epochs=1, batch_size=16, embedding=8, width=8"
    exec(code.replace("minutes=5", small), scope := {})
    assert "['dog']" in capsys.readouterr().out
    again = scope["FewShotClassifier"].from_pretrained("cats-and-dogs")
    assert again.predict(["what.jpg"]).tolist() == ["dog"]


@pytest.mark.parametrize("page", ["docs/guide/own_models.md", "README.md"])
def test_own_models_are_learned_from_as_printed(monkeypatch, tmp_path, page):
    """On two tiny models with different numbers of classes, in a trice instead of five minutes."""
    (code,) = python_of(page)
    for number, n_way in enumerate((3, 5)):
        module = build_backbone("conv4", n_way=n_way, image_size=16, width=8)
        about = {"class_names": [str(c) for c in range(n_way)], "mean": [0.5] * 3, "std": [0.5] * 3}
        about |= {"image_size": 16, "name": f"model-{number}", "arch": "conv4", "domain": str(number)}
        save_member(PretrainedModel(module, **about), tmp_path / "my-models")
    monkeypatch.chdir(tmp_path)
    scope = {"pictures": torch.rand(6, 3, 32, 32), "names": list("aabbcc"), "other_pictures": torch.rand(4, 3, 32, 32)}
    assert code.count("minutes=5") == 1
    exec(code.replace("minutes=5", "minutes=0.02, width=8"), scope)
    assert set(scope["answers"]) <= set("abc")
    assert len(scope["answers"]) == 4


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.stem)
def test_examples(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path))
    monkeypatch.setattr("freelib.datasets.GlyphSource", partial(GlyphSource, images_per_class=8))  # quicker
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", freelib.__all__)
def test_each_name_of_the_public_face_has_an_example(name: str) -> None:
    assert ">>> " in getattr(freelib, name).__doc__
    assert len(freelib.__all__) == 20


def test_the_numbers_are_those_of_the_records():
    command = [sys.executable, ROOT / "docs/render.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def prose(page: str) -> str:
    """A page without its tables, code and headings."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "    ", "#", "<!--")))


@pytest.mark.parametrize("page", MOST_WORDS)
def test_pages_stay_short(page):
    assert len((ROOT / page).read_text(encoding="utf-8").split()) <= MOST_WORDS[page]
    sentences = re.split(r"(?<=[.!?:;])\s+|\n\n|\n- ", prose(page))
    assert max(len(sentence.split()) for sentence in sentences) <= 40


@pytest.mark.parametrize("page", [*MOST_WORDS, "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    missing = [
        link for link in links if link and "://" not in link and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert missing == []


CONDA_NAMES = {"torch": "pytorch"}
# what an import is called where the distribution is called otherwise
DISTRIBUTIONS = {"ot": "pot", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}
# what notebooks and their readers need without an import in freelib/
NOT_IMPORTED = {"jupyterlab", "scikit-learn"}


def read(name: str) -> str:
    """A file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict:
    """Tables of pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))


def ranges(requirements: list[str]) -> dict[str, str]:
    """Name to range, names in canonical form."""
    parsed = [Requirement(line) for line in requirements]
    return {canonicalize_name(r.name): str(r.specifier) for r in parsed if r.name != "freelib"}


def declared(*extras: str) -> dict[str, str]:
    """Name to range of the dependencies in pyproject.toml, with those of the extras named."""
    project = pyproject()["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return ranges(lines)


def tracked_files() -> list[Path]:
    """Files under version control; skips the test outside a git checkout."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_environment_and_constraints_are_those_of_pyproject() -> None:
    environment = yaml.safe_load(read("environment.yml"))
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in environment["dependencies"] if not isinstance(line, str))
    lines += [line for line in pip if line != "-e ."]
    conda = ranges(lines)
    python = Requirement(f"python{conda.pop('python')}").specifier
    classifiers = pyproject()["project"]["classifiers"]
    for version in (f"3.{minor}" for minor in range(9, 20)):
        assert python.contains(version) == (f"Programming Language :: Python :: {version}" in classifiers)
    conda.pop("pip")
    expected = {CONDA_NAMES.get(name, name): version for name, version in declared("dev", "docs").items()}
    assert conda == expected
    text = read("constraints.txt")
    pins = ranges([line for line in text.splitlines() if line and not line.startswith("#")])
    for name, wanted in declared("dev", "docs", "browser", "supply", "cluster").items():
        assert name in pins, f"{name} is in pyproject.toml and not in constraints.txt"
        version = pins[name].removeprefix("==")
        assert Requirement(f"{name}{wanted}").specifier.contains(version), f"{name} {version} is outside {wanted}"
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_requirements_pin_the_same_versions_and_a_hash_for_each() -> None:
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    pins, found = ranges(lines), re.findall(r"^(\S[^\n#]*?==\S+)(.*(?:\n .*)*)", read("requirements.txt"), re.MULTILINE)
    hashed = ranges([pin for pin, _ in found])
    assert all("--hash=sha256:" in rest for _, rest in found)
    assert set(declared("dev")) <= set(hashed)
    assert not {name for name, version in hashed.items() if pins.get(name, version) != version}


def test_every_third_party_import_is_declared_and_every_dependency_is_used() -> None:
    imported = set()
    for path in (ROOT / "freelib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"freelib"}
    names = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in imported}
    assert names <= set(declared()), f"missing in pyproject.toml: {sorted(names - set(declared()))}"
    assert set(declared()) - names <= NOT_IMPORTED, "a dependency that nothing imports"


def test_every_file_of_the_package_is_installed() -> None:
    """Profiles, class lists and reported numbers too, which are no Python."""
    package = ROOT / "freelib"
    patterns = pyproject()["tool"]["setuptools"]["package-data"]["freelib"]
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    data = {path for path in tracked_files() if package in path.parents and path.suffix != ".py"}
    assert data == installed & data
    assert all(data & set(package.glob(pattern)) for pattern in patterns)


def test_one_version_everywhere_and_every_command_and_notebook_is_named() -> None:
    version = freelib.__version__
    project = pyproject()
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "freelib.__version__"}
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == version
    changelog = read("CHANGELOG.md")
    assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == version
    readme, makefile, workflow = (read(name) for name in ("README.md", "Makefile", "workflow/Snakefile"))
    for target in ("reproduce", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    (pattern,) = re.findall(r'glob_wildcards\("notebooks/\{name,(.*?)\}\.ipynb"\)', workflow)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert path.stem in readme, f"README.md does not mention {path.name}"
        assert re.fullmatch(pattern, path.stem), path.stem


def test_no_tracked_file_names_a_machine_path_or_a_package_host() -> None:
    # a path counts only at the start of a word: base64 pictures in notebooks are full of slashes
    machine = re.compile(r"""(?:^|[\s"'`=(\[{,:])/(?:home|root|work|Users|opt|mnt)/\w""", re.MULTILINE)
    host = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|conda\.anaconda\.org|npmjs\.org|debian\.org")
    guilty = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and the like
        hits = [found[0].strip() for pattern in (machine, host) if (found := pattern.search(text))]
        guilty += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert not guilty

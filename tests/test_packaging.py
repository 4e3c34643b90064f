"""What the project says about itself, held together: dependencies, versions, commands, workflow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_models import tiny_pool

import freelib
from freelib.methods import get_method
from freelib.models.backbones import build_backbone

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch"}
# what an import is called where the distribution is called otherwise
DISTRIBUTIONS = {"ot": "pot", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}
# what notebooks and their readers need without an import in freelib/
NOT_IMPORTED = {"jupyterlab", "scikit-learn"}


def pyproject() -> dict:
    """Tables of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


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


def test_environment_yml_equals_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
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


def test_constraints_pin_every_dependency_within_its_range() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = ranges([line for line in text.splitlines() if line and not line.startswith("#")])
    for name, wanted in declared("dev", "docs", "browser").items():
        assert name in pins, f"{name} is in pyproject.toml and not in constraints.txt"
        version = pins[name].removeprefix("==")
        assert Requirement(f"{name}{wanted}").specifier.contains(version), f"{name} {version} is outside {wanted}"
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


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


def test_one_version_everywhere() -> None:
    version = freelib.__version__
    project = pyproject()
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "freelib.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == version


def test_readme_and_makefile_know_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("reproduce", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_readme_lists_every_notebook() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert notebook.stem in readme, f"README.md does not mention {notebook.name}"


def test_the_readme_s_code_runs_as_printed() -> None:
    """On a tiny pool of models with different numbers of classes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    given = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "query_images": torch.rand(6, 3, 32, 32)}
    given |= {"support_images": torch.rand(5, 3, 32, 32), "support_labels": torch.arange(5)}
    given["my_classifiers"] = {
        str(n): (build_backbone("conv4", n_way=n, image_size=32, width=8), [f"class {i}" for i in range(n)])
        for n in (3, 5)
    }
    small = "recovered=0, procedural=40, mixed=0, epochs=1, batch_size=16, embedding=8, width=8"
    assert code.count("method.Config()") == 1
    exec(code.replace("method.Config()", f"method.Config({small})"), given)
    assert given["classes"].shape == (6,)


def test_the_method_in_contributing_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(\"\"\"Noise.*?)```", text, re.DOTALL)
    (tmp_path / "noise_of_contributing.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    method = get_method("noise_of_contributing:Noise")
    learner = method.meta_train(tiny_pool(), method.Config(rounds=30, images=16, width=8), seed=0)
    losses = learner.log.history["loss"]
    assert len(losses) == 30
    assert sum(losses[-10:]) < sum(losses[:10])


def test_workflow_has_every_notebook() -> None:
    text = (ROOT / "workflow" / "Snakefile").read_text(encoding="utf-8")
    found = re.search(r'glob_wildcards\("notebooks/\{name,(.*?)\}\.ipynb"\)', text)
    assert found, "workflow/Snakefile takes its jobs from the folder of notebooks"
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert re.fullmatch(found[1], path.stem), path.stem


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

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import freelib

ROOT = Path(__file__).parents[1]
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


def test_environment_yml_equals_pyproject() -> None:
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


def test_constraints_pin_every_dependency_within_its_range() -> None:
    text = read("constraints.txt")
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
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == version
    changelog = read("CHANGELOG.md")
    assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == version


def test_readme_and_makefile_know_the_two_commands_and_readme_and_workflow_every_notebook() -> None:
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

"""The shape of the code: its size, the direction of imports, and no side effects at import."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "freelib"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_HEART_LINES, MOST_TEST_LINES = 12_580, 1_320, 11_300
"""Of all Python in the package, in its heart, and in tests/ (500 of them the long tests). Lower them when they shrink.

A method more is not what they are against: raise them for it. The heart is to be read in one sitting. What reproduces
the paper's tables and figures has 9,900 lines; the rest reads other people's models and pictures and checks them,
keeps and exports a learner, plans runs, and holds methods that are newer than the paper.
"""

GROUND = {"environment", "folders", "progress", "settings", "storage"}
HEART = ["alignment", "distillation", "generator", "inversion", "memory", "meta_learner", "replay"]
# From the ground up; what is not named is the heart, or the face above it.
ROOMS = ["datasets", "models", "heart", "fast", "methods", "run", "show", "cli"]

SIDE_EFFECTS = """
import os, pkgutil, random, sys
import matplotlib, numpy, sklearn.cluster, torch
state = lambda: (
    torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(),
    torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
    torch.get_float32_matmul_precision(), torch.cuda.is_initialized(), torch.get_rng_state().tolist(),
    random.getstate(), numpy.random.get_state()[1].tolist(), dict(os.environ), os.getcwd(),
    {name: str(value) for name, value in matplotlib.rcParams.items() if name != "backend"},
)
before = state()
import freelib
for module in pkgutil.walk_packages(freelib.__path__, "freelib."):
    __import__(module.name)
sys.exit(before != state())
"""


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imported_modules(path: Path) -> set[str]:
    """Modules of freelib that a file imports, anywhere in it: within functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            children = {f"{node.module}.{alias.name}" for alias in node.names} & NAMES
            found |= children or {str(node.module)}
    return found & NAMES


def level(module: str) -> int:
    """How high a module of freelib stands; the package itself (its version) may be read from anywhere."""
    room = module.partition(".")[2].partition(".")[0]
    return -1 if not room or room in GROUND else ROOMS.index(room if room in ROOMS else "heart")


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def test_the_package_its_heart_and_the_tests_stay_thin() -> None:
    assert lines(MODULES) <= MOST_LINES
    assert lines(PACKAGE / f"{name}.py" for name in HEART) <= MOST_HEART_LINES
    assert lines(Path(__file__).parent.rglob("*.py")) <= MOST_TEST_LINES


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_imports_what_stands_above_it(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    own = level(module_name(path))
    above = sorted(module for module in imported_modules(path) if level(module) > own)
    assert not above, f"{module_name(path)} imports {', '.join(above)}, which stands above it"


def test_no_circle() -> None:
    graph = {module_name(path): imported_modules(path) for path in MODULES if path.name != "__init__.py"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_room_without_a_name() -> None:
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "util", "tools", "helpers", "common", "misc"}


def test_importing_every_module_changes_no_global_state() -> None:
    result = subprocess.run([sys.executable, "-c", SIDE_EFFECTS], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr or "an import changed global state"

"""The shape of the code: sizes, the direction of imports, and no side effects at import."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "freelib"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Dependencies point one way, from high to low. What is not listed is a part (generator, memory and so on).
DATA, PARTS, METHODS, EXPERIMENTS, COMMANDS = range(5)
LAYERS = {
    "datasets": DATA,
    "episodes": DATA,
    "methods": METHODS,
    "experiments": EXPERIMENTS,
    "profiles": EXPERIMENTS,
    "accuracy_rows": EXPERIMENTS,
    "tables": EXPERIMENTS,
    "figures": EXPERIMENTS,
    "report": EXPERIMENTS,
    "reproduce": COMMANDS,
    "cli": COMMANDS,
    "commands": COMMANDS,
}
# Leaves that know nothing of the rest and serve every layer.
FOUNDATIONS = {"environment", "folders", "progress", "records", "settings", "storage"}
HEART = [
    "generator.py",
    "inversion.py",
    "alignment.py",
    "memory.py",
    "replay.py",
    "meta_learner.py",
    "methods/free.py",
]

SIDE_EFFECTS = """
import os, pkgutil, random, sys
import numpy, torch
state = lambda: (
    torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(),
    torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark,
    torch.get_float32_matmul_precision(), torch.cuda.is_initialized(), torch.get_rng_state().tolist(),
    random.getstate(), numpy.random.get_state()[1].tolist(), dict(os.environ), os.getcwd(),
)
before = state()
import freelib
for module in pkgutil.walk_packages(freelib.__path__, "freelib."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
sys.exit(before != state())
"""


def lines(path: Path) -> int:
    """Lines in a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    words = set()
    kinds = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in kinds:
            words.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            # A docstring, of an attribute as well, is a string that stands alone.
            if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str):
                words.difference_update(range(statement.lineno, statement.end_lineno + 1))
    return len(words)


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imported_modules(path: Path) -> set[str]:
    """Modules of freelib that a file imports, anywhere in it: within functions as well."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            children = {f"{base}.{alias.name}" for alias in node.names} & NAMES
            found |= children or {base}
    return found & NAMES


def layer(module: str) -> int:
    """How high a module of freelib stands; the package itself (its version) may be read from anywhere."""
    room = module.partition(".")[2].partition(".")[0]
    return DATA - 1 if not room or room in FOUNDATIONS else LAYERS.get(room, PARTS)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_file_has_fewer_than_300_lines(path: Path) -> None:
    assert lines(path) < 300


def test_lines_of_code_are_counted_without_docstrings_comments_and_blank_lines() -> None:
    source = """
        \"\"\"A module's docstring,
        of two lines.\"\"\"

        # a comment
        import os  # 1, with a comment


        def function(
            x: int,
        ) -> str:  # 2 to 4
            \"\"\"Its docstring.\"\"\"
            # a comment
            return \"\"\"no docstring

            of three lines\"\"\"  # 5 to 7


        VALUE = 1  # 8
        \"\"\"What the value is.\"\"\"
        """
    assert code_lines(textwrap.dedent(source)) == 8


def test_the_library_stays_readable_in_a_day() -> None:
    """What each table and figure needs for itself is counted apart: nobody reads it for another's sake."""
    artefacts = PACKAGE / "experiments"
    lines = {path: code_lines(path.read_text(encoding="utf-8")) for path in MODULES}
    assert sum(n for path, n in lines.items() if artefacts not in path.parents) < 6750
    assert max(n for path, n in lines.items() if artefacts in path.parents) < 250


def test_the_heart_of_free_reads_in_one_sitting() -> None:
    assert sum(code_lines((PACKAGE / name).read_text(encoding="utf-8")) for name in HEART) < 900


@pytest.mark.parametrize("name", HEART[:-1])
def test_the_heart_does_not_know_what_makes_it_faster(name: str) -> None:
    assert not {m for m in imported_modules(PACKAGE / name) if m.startswith("freelib.fast")}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_imports_what_stands_above_it(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    own = layer(module_name(path))
    above = sorted(module for module in imported_modules(path) if layer(module) > own)
    assert not above, f"{module_name(path)} imports {', '.join(above)}, which stands above it"


def test_no_room_without_a_name() -> None:
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "util", "tools", "helpers", "common", "misc"}


def test_importing_every_module_changes_no_global_state() -> None:
    result = subprocess.run([sys.executable, "-c", SIDE_EFFECTS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, (
        result.stderr or "an import changed torch's threads or modes, a global RNG or the environment"
    )
    assert result.stdout == ""

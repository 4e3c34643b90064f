"""Python and freelib's command line, as processes of their own or in this one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from types import SimpleNamespace

from click.testing import CliRunner

# A shell's background job ignores SIGINT, and so would the command: that is the shell's wish, not ours here.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from freelib.cli import main
main()
"""


def start_python(*words: object, env: Mapping[str, str] = os.environ, **settings: object) -> subprocess.Popen:
    """A process that finds what the tests find; its two outputs are pipes."""
    env = {**env, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, words)], env=env, **pipes, **settings)


def start_command(words: str, **settings: object) -> subprocess.Popen:
    """The command line in a process and session of its own."""
    # coverage would answer SIGTERM in the command's place
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return start_python("-c", MAIN, *words.split(), env=env, start_new_session=True, **settings)


def call(*words: object) -> SimpleNamespace:
    """The command line in this process: its exit code, standard output and standard error."""
    from freelib.cli import main  # not before the types are checked

    result = CliRunner().invoke(main, list(map(str, words)))
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)

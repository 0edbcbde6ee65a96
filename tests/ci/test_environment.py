""".ci/environment.sh: which interpreter is taken, and that an environment is made once and whole."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / ".ci" / "environment.sh"
# stands in for minutes of pip; an environment that is interrupted lacks the file `complete`
FAKE_INSTALL = """
install_requirements() {
    echo made
    sleep 0.5
    mkdir -p "$2/bin" && touch "$2/bin/activate" && ${COMPLETE:-touch} "$2/complete"
}
"""


def start(script: str, **environment) -> subprocess.Popen:
    command = ["bash", "-euc", f". {SCRIPT}\n{script}"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHON": "", **environment}, **streams)


def run(script: str, **environment) -> Tuple[int, str, str]:
    process = start(script, **environment)
    out, error = process.communicate()
    return process.returncode, out, error


@pytest.fixture
def minor() -> int:
    return sys.version_info.minor


def test_interpreters_that_do_not_fit_are_passed_over(minor):
    status, out, _ = run(f"find_python {minor} {minor} no-such-python false {sys.executable}")
    assert status == 0
    assert Path(out.strip()).exists()
    assert run(f"find_python {minor + 1} 99 {sys.executable}")[0] == 1


def test_python_that_is_named_is_taken_or_refused():
    status, out, _ = run("choose_python", PYTHON=sys.executable)
    assert status == 0 and out.strip() == sys.executable
    status, out, error = run("choose_python", PYTHON="no-such-python")
    assert status == 1 and not out
    assert error.startswith("PYTHON=no-such-python is no Python 3.9 to 3.12")


def use(folder: Path, **environment) -> subprocess.Popen:
    script = f'{FAKE_INSTALL}\nuse_environment {sys.executable}\necho "in $environment"\necho "path $PYTHONPATH"'
    return start(script, XDG_CACHE_HOME=str(folder), **environment)


def test_environment_is_made_once_and_outside_the_checkout(tmp_path, minor):
    both = [use(tmp_path) for _ in range(2)]  # at once
    outputs = [process.communicate()[0].splitlines() for process in both]
    assert sum(line == "made" for lines in outputs for line in lines) == 1
    places = {line for lines in outputs for line in lines if line.startswith("in ")}
    assert len(places) == 1
    assert places.pop().startswith(f"in {tmp_path}/fairseq-distill/python3.{minor}-")
    assert all(lines[-1].startswith(f"path {SCRIPT.parent.parent}") for lines in outputs)


def test_interrupted_environment_is_made_anew(tmp_path):
    assert "made" in use(tmp_path, COMPLETE="true").communicate()[0].splitlines()
    assert "made" in use(tmp_path).communicate()[0].splitlines()
    assert "made" not in use(tmp_path).communicate()[0].splitlines()

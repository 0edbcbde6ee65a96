"""Every example from its command to its table: two updates, on synthesised speech with the quickstart's tiny teacher."""

import os
import re
import subprocess
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List

import pytest

from .warm_commands import WarmCommands

ROOT = Path(__file__).resolve().parent.parent.parent
COUNTS = {"train": 40, "valid": 10, "test": 30}
# the runs of each example that are tried, after the quickstart
RUNS = {
    "real_speech": [],
    "dphubert": ["params75"],
    "skill": ["clusters", "skill75"],
    "letters": ["distilled"],
    "multitask": ["distilled.tuned.joint", "distilled.padded.speaker"],
    "deep_versus_wide": ["layers_4x96", "last_1x192", "armhubert"],
}
INTERVAL = r"\d+\.\d % \(\d+\.\d-\d+\.\d\)"


@pytest.fixture(scope="session")
def work():
    """Folder where all examples run, with little speech in it."""
    pytest.importorskip("espeakng_loader", reason="speech is synthesised by espeak-ng: pip install espeakng-loader")
    with tempfile.TemporaryDirectory(prefix="examples") as name:  # a short path, for the commands' socket
        folder = Path(name)
        counts = [f"--{split}={count}" for split, count in COUNTS.items()]
        script = ROOT / "examples" / "quickstart" / "make_speech.py"
        subprocess.run(["python3", script, folder / "quickstart" / "speech", *counts], check=True)
        yield folder


@pytest.fixture(scope="session")
def runs(work, request) -> Dict[str, "Future[List[str]]"]:
    """What each example that is tested prints, line by line: the quickstart first, then two examples at a time."""
    names = {item.callspec.params["name"] for item in request.session.items if "run_lines" in item.fixturenames}
    with WarmCommands(work / "bin") as commands, ThreadPoolExecutor(2) as pool:
        environment = {
            **os.environ,
            "PATH": f"{commands.folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": "1",
            "UPDATES": "2",
            "TEACHER_UPDATES": "2",
            "DISTILLED": str(work / "quickstart" / "student.pt"),
        }

        def run(name: str) -> List[str]:
            command = ["bash", ROOT / "examples" / name / "run.sh", *RUNS.get(name, [])]
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            return done.stdout.splitlines()

        first: "Future[List[str]]" = Future()
        first.set_result(run("quickstart"))
        yield {"quickstart": first, **{name: pool.submit(run, name) for name in sorted(names - {"quickstart"})}}

"""Every example from its command to its table: two updates, synthesised speech, the quickstart's tiny teacher."""

import math
import os
import re
import subprocess
import sys
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
        subprocess.run([sys.executable, script, folder / "quickstart" / "speech", *counts], check=True)
        yield folder


@pytest.fixture(scope="session")
def runs(work, request) -> Dict[str, Future[List[str]]]:
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

        first: Future[List[str]] = Future()
        first.set_result(run("quickstart"))
        yield {"quickstart": first, **{name: pool.submit(run, name) for name in sorted(names - {"quickstart"})}}


def read_tables(lines: List[str]) -> List[List[Dict[str, str]]]:
    """The Markdown tables among the lines: rows, each column's title -> cell."""
    tables: List[List[Dict[str, str]]] = []
    titles: List[str] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if not cells:
            titles = []
        elif not titles:
            titles = cells
            tables.append([])
        elif set(cells) != {"---"}:
            assert len(cells) == len(titles), line
            tables[-1].append(dict(zip(titles, cells)))
    return tables


@pytest.fixture
def run_lines(runs, name) -> List[str]:
    return runs[name].result()


@pytest.fixture
def tables(run_lines) -> List[List[Dict[str, str]]]:
    return read_tables(run_lines)


def list_column(table: List[Dict[str, str]], title: str) -> List[str]:
    return [row[title] for row in table]


@pytest.mark.parametrize("name", ["quickstart"])
def test_quickstart(run_lines):
    rows = run_lines[-6:-2]
    assert [row.split("  ")[0] for row in rows] == [
        "teacher",
        "student",
        "student before distillation",
        "student, random weights",
    ]
    assert all(re.search(r" M +0\.\d{3} G +\d+\.\d% \(\d+\.\d to \d+\.\d\)$", row) for row in rows)
    assert run_lines[-2] == "chance on keywords: 10.0%"
    assert re.fullmatch(
        r"distillation loss on valid: \d\.\d{3} after update 1, \d\.\d{3} after update 2", run_lines[-1]
    )


@pytest.mark.parametrize("name", ["real_speech"])
def test_real_speech(tables):
    networks, losses = tables
    names = ["teacher", "deep", "deep's shape, random weights", "wide", "wide's shape, random weights"]
    assert list_column(networks, "network") == names
    assert all(re.fullmatch(INTERVAL, cell) for cell in list_column(networks, "speech, keywords"))
    assert all(cell.endswith("% EER") for cell in list_column(networks, "speech, speakers")), "test has new speakers"
    assert [(row["student"], row["updates"]) for row in losses] == [
        ("deep", "1"),
        ("deep", "2"),
        ("wide", "1"),
        ("wide", "2"),
    ]
    assert list(losses[0])[3:] == [f"layer {layer}: L1 / -log sigmoid cos" for layer in (1, 2, 4)]


@pytest.mark.parametrize("name", ["dphubert"])
def test_dphubert(tables, work):
    (sizes,), (qualities,) = tables
    assert sizes["what should go"] == qualities["what should go"] == "75 % of parameters"
    assert re.fullmatch(INTERVAL, qualities["speech, keywords"])
    # cutting is exact
    assert float(qualities["pruned"]) == pytest.approx(float(qualities["held-out loss, stage 1"]), abs=1e-3)
    assert (work / "dphubert" / "params75.png").exists()


@pytest.mark.parametrize("name", ["skill"])
def test_skill(tables):
    stability, (student,), layers = tables
    runs = [(row["speech"], row["seed"]) for row in stability]
    assert runs == [(f"{minutes} min", str(seed)) for minutes in (1, 5, 20) for seed in (0, 1, 2)]
    assert all(row["groups"].count("{") == 2 for row in stability)
    assert student["recipe"] == "SKILL" and student["target"] == "0.75"
    assert math.isfinite(float(student["loss, layers 1, 2, 4"]) + float(student["the others"]))
    assert list_column(layers, "teacher's layer") == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["letters"])
def test_letters(tables, run_lines):
    ((row,),) = tables
    assert row["encoder"] == "distilled" and row["utterances"] == str(COUNTS["test"])
    assert re.fullmatch(INTERVAL, row["word errors"]) and re.fullmatch(INTERVAL, row["character errors"])
    assert run_lines[-1].startswith("distilled: ") and run_lines[-1].count(" heard as ") == 3


@pytest.mark.parametrize("name", ["multitask"])
def test_multitask(tables):
    sizes, (padded, tuned) = tables
    assert list_column(sizes, "encoder") == ["teacher", "distilled"]
    assert (padded[""], padded["tasks"]) == ("frozen, padding as in stock fairseq", "single")
    assert padded["speech, keywords"] == "-" and re.fullmatch(INTERVAL, padded["speech, speakers, EER"])
    assert (tuned[""], tuned["tasks"]) == ("fine-tuned", "joint")
    assert re.fullmatch(INTERVAL, tuned["speech, keywords"]) and re.fullmatch(INTERVAL, tuned["speech, speakers, EER"])


@pytest.mark.parametrize("name", ["deep_versus_wide"])
def test_deep_versus_wide(tables):
    students, (objective,) = tables
    assert [(row["layers x width"], row["distilled"]) for row in students] == [
        ("teacher, 4x192", ""),
        ("4x96", "layer to layer"),
        ("1x192", "from the last layer"),
    ]
    assert list_column(students, "held-out loss")[0] == "-"
    assert all(math.isfinite(float(loss)) for loss in list_column(students, "held-out loss")[1:])
    assert objective["objective"] == "the same, maps of every second layer reused"
    assert re.fullmatch(INTERVAL, objective["speech, keywords"])


@pytest.mark.parametrize("given", ["DATA", "TEACHER"])
@pytest.mark.parametrize("name", sorted(RUNS))
def test_what_is_missing_is_named(tmp_path, name, given):
    done = subprocess.run(
        ["bash", ROOT / "examples" / name / "run.sh"],
        env={"PATH": "/usr/bin:/bin", given: str(tmp_path / "nothing"), "WORK": str(tmp_path / "work")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"{name}: {given}={tmp_path}/nothing" in done.stderr

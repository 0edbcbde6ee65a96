"""The command line itself: its version, its help, and what it says of forms that it no longer takes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_distill
from fairseq_distill.cli.main import main

from ..runs import environment

PACKAGE = Path(fairseq_distill.__file__).parent


def show_help(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_module_is_the_program_and_tells_its_version():
    options = dict(env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    shown = subprocess.run([sys.executable, "-W", "ignore", "-m", "fairseq_distill", "--version"], **options)
    assert (shown.returncode, shown.stdout) == (0, f"fairseq-distill {fairseq_distill.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", fairseq_distill.__version__)


@pytest.mark.parametrize(
    "kind, its_own, of_others",
    [
        ("probe", ["--label", "--trials", "--cache", "--random-weights"], ["--split", "--labels", "--show"]),
        ("heads", ["--split", "--trials"], ["--label", "--cache", "--random-weights", "--labels", "--show"]),
        (
            "ctc",
            ["--split", "--labels", "--dict", "--pretrained", "--show"],
            ["--label", "--trials", "--cache", "--random-weights"],
        ),
    ],
)
def test_each_evaluation_has_its_own_arguments_and_examples(capsys, kind, its_own, of_others):
    usage, text = show_help(capsys, "evaluate", kind).split("\n\n", 1)
    options = set(re.findall(r"--[a-z-]+", usage)) - {"--help"}
    assert options == {"--data", "--json", *its_own} and not options & set(of_others)
    assert "CKPT" in usage and f"fairseq-distill evaluate {kind} " in text and "examples" in text


def test_the_help_of_evaluate_names_every_kind(capsys):
    text = show_help(capsys, "evaluate")
    for kind in ("probe", "heads", "ctc"):
        assert f"    {kind} " in text and f"fairseq-distill evaluate {kind} " in text


@pytest.mark.parametrize(
    "old, new",
    [
        (["student.pt", "--data", "d"], "probe student.pt --data d"),
        (["a b.pt", "--data", "d", "--label", "speaker"], "probe 'a b.pt' --data d --label speaker"),
        (["tuned.pt", "--heads", "--data", "d", "--split", "valid"], "heads tuned.pt --data d --split valid"),
        (["--ctc", "tuned.pt", "--data", "d", "--show", "5"], "ctc tuned.pt --data d --show 5"),
    ],
)
def test_old_forms_of_evaluate_are_told_the_new_one_and_run(capsys, old, new):
    assert main(["evaluate", *old]) == 1  # there is no such folder of manifests or file
    shown = capsys.readouterr()
    first, rest = shown.err.split("\n", 1)
    assert first == f"this form is old, type: fairseq-distill evaluate {new}"
    assert shown.out == "" and re.search(r"fairseq-distill evaluate: .*(no such file|cannot read|no folder)", rest)


@pytest.mark.parametrize("words", [[], ["evaluate"], ["manifest"], ["manifest", "timit", "x", "--out", "y"]])
def test_what_is_missing_or_unknown_is_a_usage_error(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2 and "usage: fairseq-distill" in capsys.readouterr().err


def test_nothing_of_the_command_line_is_a_face_of_fairseq():
    """What the registered models share with commands lives outside of models/, tasks/ and criterions/."""
    for path in (PACKAGE / "cli").rglob("*.py"):
        top = [line for line in path.read_text().splitlines() if re.match(r"(from|import) ", line)]
        assert not [line for line in top if re.search(r"\.(models|tasks|criterions)\b", line)], path


def test_type_checkers_find_the_packages_annotations():
    assert (PACKAGE / "py.typed").is_file()

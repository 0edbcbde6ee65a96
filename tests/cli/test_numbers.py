"""Numbers that make no sense, in every numeric option of every command: a sentence, never a traceback."""

import argparse

import pytest

from fairseq_distill.cli.main import build_parser, main

from ..builders import write_data, write_teacher
from ..runs import write_labelled

WRONG = ("0", "-1", "nan", "inf", "-inf", "-1e30", str(-(10**30)), str(-(10**400)), "x")
LARGE = ("1e30", str(2**63), str(10**30), str(10**400))  # where all there is is less, that is what is taken
COMMANDS = {
    "info": ["{teacher}"],
    "shapes": ["--params", "50%", "--teacher", "{teacher}", "--tolerance", "90%"],
    "clusters": ["{teacher}", "{manifest}"],
    "similarity": ["{teacher}", "{teacher}", "{manifest}"],
    "units": ["{teacher}", "{manifest}", "--layer", "1", "--clusters", "4", "--out", "{out}"],
    "evaluate probe": ["{teacher}", "--data", "{labelled}", "--label", "keyword", "--cache", "{out}"],
    "evaluate ctc": ["{teacher}", "--data", "{labelled}"],
    "predict": ["{teacher}", "{wave}"],
    "manifest librispeech": ["{labelled}", "--out", "{out}"],
    "manifest speech-commands": ["{labelled}", "--out", "{out}"],
    "manifest voxceleb": ["{labelled}", "--out", "{out}"],
}
ZERO = {"--seed", "--random-weights", "--limit", "--height", "--layer"}  # which may be zero


def list_parsers(parser, words=()):
    """(words, parser) of each command that has no subcommands."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield " ".join(words), parser
    for action in below:
        for name, child in action.choices.items():
            yield from list_parsers(child, (*words, name))


NUMERIC = sorted(
    (words, action.option_strings[0])
    for words, parser in list_parsers(build_parser())
    for action in parser._actions
    if action.type in (int, float)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A teacher, a manifest, labels and a wave."""
    folder = tmp_path_factory.mktemp("numbers")
    write_data(folder / "data")
    manifest = folder / "data" / "train.tsv"
    root, first = manifest.read_text().splitlines()[:2]
    return {
        "teacher": write_teacher(folder),
        "manifest": str(manifest),
        "labelled": str(write_labelled(folder / "labelled")),
        "wave": f"{root}/{first.split()[0]}",
    }


def test_every_numeric_option_is_tried():
    assert {words for words, _ in NUMERIC} == set(COMMANDS) and len(NUMERIC) >= 18


@pytest.mark.parametrize(("words", "option"), NUMERIC)
def test_wrong_numbers_are_told(words, option, files, tmp_path, capsys):
    for number in (*WRONG, *LARGE):
        line = [word.format(out=tmp_path / number[:9], **files) for word in COMMANDS[words]]
        try:
            code = main([*words.split(), *line, f"{option}={number}"])
        except SystemExit as end:  # argparse's
            code = end.code
        told = capsys.readouterr().err
        may_be_taken = number in LARGE or (number == "0" and option in ZERO)
        assert code in ((0, 1, 2) if may_be_taken else (1, 2)), f"{option}={number}"
        if code:
            last = told.splitlines()[-1]
            assert last.startswith(f"fairseq-distill {words.split()[0]}") and len(last) < 1000
            assert may_be_taken or option in last, last

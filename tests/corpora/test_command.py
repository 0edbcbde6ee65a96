"""`fairseq-distill manifest`: each corpus brings its own arguments and its own help."""

import re

import pytest

from fairseq_distill.cli.main import main

OPTIONS = {
    "speech-commands": {"--classes", "--test-set"},
    "voxceleb": {"--protocol", "--trials"},
    "librispeech": {"--train", "--valid", "--test", "--pieces"},
}


def show_help(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["manifest", *words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("corpus", OPTIONS)
def test_a_corpus_declares_its_own_options_and_says_what_it_reads_and_writes(capsys, corpus):
    usage, text = show_help(capsys, corpus).split("\n\n", 1)
    assert (
        set(re.findall(r"--[a-z-]+", usage)) - {"--help"} == {"--out", "--sample-rate", *OPTIONS[corpus]}
        and "DIR" in usage
    )
    assert "Writes " in text and f"fairseq-distill manifest {corpus} " in text


def test_the_help_names_every_corpus(capsys):
    text = show_help(capsys)
    for corpus in OPTIONS:
        assert re.search(rf"^    {corpus}\s", text, re.MULTILINE) and f"fairseq-distill manifest {corpus} " in text


def test_options_of_another_corpus_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["manifest", "voxceleb", "vox", "--out", "out", "--pieces", "100"])
    assert stopped.value.code == 2 and "unrecognized arguments: --pieces 100" in capsys.readouterr().err

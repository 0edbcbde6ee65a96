"""Dictionaries of a recogniser as fairseq reads them, and as people's editors leave them."""

import pytest
from fairseq.data import Dictionary

from fairseq_distill.data.token_dictionary import read_dictionary, restore_dictionary
from fairseq_distill.errors import UserError


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "E 10\nT 9\n| 8\n",
        "今 1\n\u3000 1\n\u2581 1\n\u2581A 1",  # a token that is a space of another kind
        "<unk> 1 #fairseq:overwrite\nE 3\nE 2 #fairseq:overwrite\n| 1\n",
        "a b 1\n'' 0\n",
    ],
)
def test_tokens_have_fairseqs_numbers(text, tmp_path):
    file = write(tmp_path / "dict.ltr.txt", text)
    stock = Dictionary.load(str(file))
    found = read_dictionary(file)
    assert found.symbols == [stock[number] for number in range(len(stock))] and len(found.symbols) > 5
    assert (found.bos, found.eos, found.blanks) == (stock.bos(), stock.eos(), {0})
    marked = write(tmp_path / "marked.txt", text.replace("\n", "\r\n"), "utf-8-sig")
    assert read_dictionary(marked) == found
    assert restore_dictionary(vars(stock), "x.pt") == found


def test_a_blank_of_its_own_is_one_too(tmp_path):
    assert read_dictionary(write(tmp_path / "d.txt", "<ctc_blank> 1\nE 1\n")).blanks == {0, 4}
    prepended = Dictionary(bos="<ctc_blank>")
    prepended.add_symbol("E")
    found = restore_dictionary(vars(prepended), "x.pt")
    assert (found.symbols[0], found.blanks) == ("<ctc_blank>", {0})


@pytest.mark.parametrize(
    "text, message",
    [
        ("E 1\nE 2\n", r"dict.ltr.txt: not fairseq's dictionary.*: Duplicate word .*'E'.*#fairseq:overwrite"),
        ("E 1\nT\n", r"dict.ltr.txt: not fairseq's dictionary.*: .*'<token> <cnt> \[flags\]'.*T"),
        ("E one\n", "dict.ltr.txt: not fairseq's dictionary.*: .*E"),
    ],
)
def test_lines_that_fairseq_refuses_are_named(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_dictionary(write(tmp_path / "dict.ltr.txt", text))


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(UserError, match="none.txt: cannot be read: No such file"):
        read_dictionary(tmp_path / "none.txt")
    with pytest.raises(UserError, match="latin.txt: not fairseq's dictionary.*utf-8"):
        read_dictionary(write(tmp_path / "latin.txt", "é 1\n", "latin-1"))


@pytest.mark.parametrize("fields", [{}, {"symbols": "abc"}, {"symbols": ["<s>", 3, "a"]}, {"symbols": ["a", "b"]}])
def test_damaged_ones_inside_a_checkpoint_are_named(fields):
    with pytest.raises(UserError, match=r"the dictionary inside x.pt is damaged: .*--dict"):
        restore_dictionary(fields, "x.pt")

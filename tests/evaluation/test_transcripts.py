"""Where words begin or end in tokens, and what of a transcript is compared."""

import pytest

from fairseq_distill.evaluation.transcripts import find_marks, join_words, read_references


@pytest.mark.parametrize(
    "tokens, marks, words",
    [
        ("T H E | C A T |", "letter", "THE CAT"),
        ("| A | |", "letter", "A"),
        ("\u2581THE \u2581C A T", "sentencepiece", "THE CAT"),
        ("\u2581 A", "sentencepiece", "A"),
        ("TH@@ E C@@ A@@ T", "subword_nmt", "THE CAT"),
        ("A <unk> |", "letter", "A<unk>"),
    ],
)
def test_tokens_become_words(tokens, marks, words):
    assert find_marks(tokens.split()) == marks
    assert join_words(tokens.split(), marks) == words


def test_words_are_not_marked_in_phonemes_and_characters():
    assert find_marks(["AH0", "B", "@@", "ax-h", "h#"]) is None
    assert find_marks([*"今天气"]) is None
    assert find_marks(["YES", "NO"], "wrd") == "none" and join_words(["YES", "NO"], "none") == "YES NO"
    assert find_marks(["<s>", "A", "|", "\u2581B"]) == "sentencepiece"


LETTERS = ["<s>", "<pad>", "</s>", "<unk>", *"ABCT|"]


def read(lines, labels="ltr", symbols=LETTERS):
    return read_references([line.split() for line in lines], labels, symbols, find_marks(symbols))


def test_empty_lines_and_lines_without_words_are_no_references():
    found = read(["C A T |", "", "| |", "A |"])
    assert [row and row.text for row in found.rows] == ["CAT", None, None, "A"]
    assert [row and len(row.units) for row in found.rows] == [4, None, None, 2]
    assert (found.unit, found.any_known) == ("letters", True)


def test_units_that_the_model_has_not_are_counted():
    assert [row.unknown for row in read(["C A N |", "Q U A |"]).rows] == [1, 2]
    assert read(["s ih", "s"], "phn").any_known is False


@pytest.mark.parametrize("labels, line", [("wrd", "A CAT"), ("spm", "\u2581A \u2581C A T"), ("bpe", "A C@@ A@@ T")])
def test_words_of_another_kind_are_spelled_for_a_model_of_letters(labels, line):
    (row,) = read([line], labels).rows
    assert row.text == "A CAT" and " ".join(row.units) == "A | C A T |"


def test_words_of_another_kind_have_no_units_for_a_model_of_pieces():
    found = read(["C A T |"], symbols=["<s>", "\u2581C", "AT"])
    assert found.rows[0].units is None and found.rows[0].text == "CAT" and (found.unit, found.any_known) == (None, True)


def test_units_alone_are_compared_where_one_marks_no_words():
    found = read(["A B", "C |"], symbols=["<s>", "A", "B", "C"])
    assert [(row.text, row.unknown) for row in found.rows] == [(None, 0), (None, 1)]
    found = read(["今 天"], symbols=["<s>", "今", "天", "|"])  # a dictionary with | and transcripts without
    assert found.rows[0].units == ["今", "天"] and found.rows[0].text is None and found.unit == "characters"


def test_letters_may_carry_marks_and_stand_beside_signs():
    found = read(["क् या | <noise> |"], symbols=["<s>", "क्", "या", "|"])
    assert (found.rows[0].is_spelled, found.unit) == (True, "letters")
    assert read(["क् ष"], symbols=["<s>", "क्", "ष"]).unit == "characters"


def test_pronunciations_have_words_but_no_characters():
    found = read(["k ae t | s ih h t |"], "phn", ["<s>", "k", "ae", "t", "s", "ih", "|"])
    assert (found.rows[0].text, found.rows[0].is_spelled, found.unit) == ("kaet sihht", False, "tokens")

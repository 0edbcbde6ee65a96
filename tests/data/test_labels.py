"""Label files of one label a line: marks that nobody sees make no class of their own, and lines are counted."""

import pytest

from fairseq_distill.data.labels import read_labels, read_lines
from fairseq_distill.errors import UserError


def test_byte_order_marks_are_no_part_of_a_label_wherever_they_stand(tmp_path):
    """Editors write one at the start; `cat one.keyword two.keyword` puts it inside."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.keyword").write_bytes("yes\r\nno\r\n".encode("utf-8-sig"))
    both = tmp_path / "both.keyword"
    both.write_bytes(b"".join((tmp_path / f"{name}.keyword").read_bytes() for name in ("one", "two")))
    assert both.read_bytes().count("\ufeff".encode()) == 2
    assert read_labels(both, 4) == ["yes", "no", "yes", "no"]


def test_missing_and_surplus_rows_are_refused_and_empty_ones_kept(tmp_path):
    file = tmp_path / "train.keyword"
    file.write_text("yes\n\n no \n")
    assert read_labels(file, 3) == ["yes", "", "no"]
    for rows in (2, 4):
        with pytest.raises(UserError, match=f"train.keyword has 3 lines, but train.tsv has {rows} utterances"):
            read_labels(file, rows)


def test_what_is_no_text_or_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / "utf16").write_bytes("yes\n".encode("utf-16"))
    with pytest.raises(UserError, match="utf16 is not UTF-8 text"):
        read_lines(tmp_path / "utf16")
    with pytest.raises(UserError, match="cannot read the trials .*: Is a directory; ask"):
        read_lines(tmp_path, "the trials ", "; ask")

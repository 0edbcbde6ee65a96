"""The list of tasks: what may stand in it, and sentences for what may not."""

import pytest
from omegaconf import OmegaConf

from fairseq_distill.errors import UserError
from fairseq_distill.multitask.task_list import ClassificationSettings, VerificationSettings, parse_tasks

KEYWORD = {"name": "keyword", "kind": "classification"}


def test_plain_lists_omegaconf_and_text_are_the_same():
    plain = [
        dict(KEYWORD, label="word", weight=2, data="a, b"),
        {"name": "speaker", "kind": "verification", "data": ["c"]},
    ]
    expected = [
        ClassificationSettings("keyword", "classification", "word", ("a", "b"), 2.0),
        VerificationSettings("speaker", "verification", "speaker", ("c",)),
    ]
    assert parse_tasks(plain) == expected
    assert parse_tasks(OmegaConf.create(plain)) == expected
    keyword = "{name: keyword, kind: classification, label: word, weight: 2, data: [a, b]}"
    text = f"[{keyword}, {{name: speaker, kind: verification, data: c}}]"
    assert parse_tasks(text) == expected


def test_defaults_are_those_of_the_documentation():
    speaker = parse_tasks([{"name": "s", "kind": "verification"}])[0]
    assert (speaker.softmax, speaker.scale, speaker.margin, speaker.embedding_dim) == ("am", 30.0, 0.2, 192)
    assert speaker.sampling is None and not speaker.balanced and speaker.layers == "sum" and speaker.batch_norm
    assert not parse_tasks([KEYWORD])[0].batch_norm


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "must be a list with an entry for each task"),
        ({"keyword": {}}, "must be a list"),
        ("[{name: a", "is no YAML"),
        (["keyword"], r"task.tasks.0='keyword' must be a mapping"),
        ([{"name": "a"}], "task.tasks.0 lacks kind"),
        ([KEYWORD, {"kind": "verification"}], "task.tasks.1 lacks name"),
        ([dict(KEYWORD, kind="regression")], "regression is none of classification, verification"),
        ([dict(KEYWORD, margin=0.2)], "unknown key margin; a task of kind classification has name, kind, label"),
        ([dict(KEYWORD, weight="much")], "task.tasks.0.weight='much' must be a number"),
        ([dict(KEYWORD, balanced=1)], "must be true or false"),
        ([dict(KEYWORD, hidden=2.5)], "must be a whole number"),
        ([dict(KEYWORD, weight=-1)], "must not be negative"),
        ([dict(KEYWORD, sampling=0)], "must be positive"),
        ([dict(KEYWORD, layers="first")], "first is none of sum, last"),
        ([dict(KEYWORD, name="key word")], "must be letters"),
        ([KEYWORD, KEYWORD], "has keyword twice"),
        ([dict(KEYWORD, data=3)], "must be a folder, or a list of folders"),
    ],
)
def test_what_cannot_be_is_refused_with_the_entry(given, message):
    with pytest.raises(UserError, match=message):
        parse_tasks(given)

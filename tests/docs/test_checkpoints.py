"""docs/checkpoints.md: its lists of settings are the code's, and its sentences are those that the user sees."""

import re
from pathlib import Path

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.fields import COMPUTED, HARMLESS, REFUSED
from fairseq_distill.errors import UserError

from ..checkpoints import layouts

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def with_settings(**model):
    """A file of wav2vec 2.0's weights whose model section is this."""
    cfg = {"model": model, "task": {"_name": "audio_pretraining", "normalize": True}}
    return {"cfg": cfg, "model": layouts.build_wav2vec2().state_dict()}


def two_encoders():
    weights = {
        f"{place}.{key}": value
        for place in ("student", "teacher")
        for key, value in layouts.build_wav2vec2().state_dict().items()
    }
    return {**with_settings(_name="wav2vec2"), "model": weights}


def without_inner_settings():
    weights = {f"w2v_encoder.w2v_model.{key}": value for key, value in layouts.build_wav2vec2().state_dict().items()}
    return {**with_settings(_name="wav2vec_ctc"), "model": weights}


# what does not load -> such a file
FILES = {
    "data2vec 2.0": lambda: with_settings(_name="data2vec_multi", modalities={"audio": {}}),
    "MR-HuBERT": lambda: with_settings(_name="multires_hubert", label_rate_ratios=[1, 2]),
    "wav2vec 1.0, vq-wav2vec": lambda: with_settings(_name="wav2vec"),
    "conformers": lambda: with_settings(_name="wav2vec2", layer_type="conformer", pos_enc_type="rope"),
    "MMS with adapters": lambda: with_settings(_name="wav2vec2", layer_type="trf_adp"),
    "wav2vec 2.0 that quantises its input": lambda: with_settings(_name="wav2vec2", quantize_input=True),
    "wav2vec 2.0 that crops": lambda: with_settings(_name="wav2vec2", crop_seq_to_multiple=4),
    "a derived model with something of its own": lambda: with_settings(_name="mine", window_attention=16),
    "a model that is none of these": lambda: {
        "cfg": {"model": {"_name": "transformer_lm"}, "task": {}},
        "model": {"decoder.embed_tokens.weight": torch.zeros(2, 2)},
    },
    "fine-tuned files without the settings inside": without_inner_settings,
    "student and teacher in one file": two_encoders,
    "weights without settings": lambda: layouts.build_wav2vec2().state_dict(),
}


def find_sentence(what, path):
    """What is said when such a file is loaded, with FILE for its path."""
    torch.save(FILES[what](), path)
    with pytest.raises(UserError) as refusal:
        load_encoder(path)
    return str(refusal.value).replace(str(path), "FILE")


@pytest.mark.parametrize("what", FILES)
def test_what_does_not_load_says_so_in_these_words(what, tmp_path):
    assert f"| {what} | {find_sentence(what, tmp_path / 'x.pt')} |\n" in TEXT


def list_names(part):
    return re.findall(r"`(\w+)`", part)


def test_lists_of_settings_are_those_of_the_code():
    section = TEXT.split("### Settings\n")[1].split("\n## ")[0]
    computed, rest = section.split("**Computed**")[1].split("**Harmless**")
    harmless, refused = rest.split("**Refused**")
    assert list_names(computed) == sorted(COMPUTED)
    rows = dict(re.findall(r"^\| (`.*`) \| (.*) \|$", harmless, flags=re.MULTILINE))
    assert {name: reason for names, reason in rows.items() for name in list_names(names)} == HARMLESS
    listed = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", refused, flags=re.MULTILINE)
    assert [(name, what) for name, _, what in listed] == [(name, entry.what) for name, entry in REFUSED.items()]
    for name, allowed, _ in listed:
        shown = [str(value) for value in REFUSED[name].allowed if value != ""]
        assert re.findall(r"`([^`]+)`", allowed) == shown

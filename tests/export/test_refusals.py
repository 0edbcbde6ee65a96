"""What `export` refuses, with the setting that does not fit, and that nothing is left behind when it does."""

from dataclasses import fields

import pytest
import torch
from fairseq.models.hubert.hubert import HubertConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config

from fairseq_distill.checkpoints.reading import EncoderCheckpoint
from fairseq_distill.cli.main import main
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError
from fairseq_distill.export import comparison, microsoft_wavlm, stock_fairseq, writing
from fairseq_distill.export.source import HARMLESS, Source, read_source, simplify

from ..builders import SMALL, UNEVEN, WAVLM
from .students import KINDS, write_student

# what a format has no setting for: settings of a student, what the sentence names
UNFIT = {
    "heads of each layer": (dict(layer_heads=[4, 3]), "fairseq", "layer_heads=[4, 3]"),
    "fewer heads everywhere": (dict(layer_heads=[2, 2]), "fairseq", "layer_heads=[2, 2]"),
    "neurons of each layer": (dict(layer_ffn_dims=[80, 79]), "fairseq", "layer_ffn_dims=[80, 79]"),
    "constants": (dict(layer_heads=[0, 0], layer_ffn_dims=[0, 0]), "fairseq", "layer_heads=[0, 0]"),
    "head width": (dict(head_dim=5), "fairseq", "head_dim=5"),
    "time reduction": (dict(time_reduction=2), "fairseq", "time_reduction=2"),
    "maps reused": (dict(reuse_attention=[2]), "fairseq", "reuse_attention=[2]"),
    "projection all the same": (dict(project_features=True, encoder_embed_dim=32), "fairseq", "project_features=True"),
    "stacked positions of a HuBERT": (dict(pos_conv_depth=3), "fairseq", "pos_conv_depth=3"),
    "gates": (
        dict(prune=["heads"], target_sparsity=0.1),
        "fairseq",
        "prune=['heads']; cut the gates first (fairseq-distill prune)",
    ),
    "batch norm of a wav2vec 2.0": (
        dict(family="wav2vec2", conv_pos_batch_norm=True),
        "fairseq",
        "conv_pos_batch_norm=True",
    ),
    "WavLM as fairseq": (WAVLM, "fairseq", "family=wavlm, and fairseq has no such model; --format wavlm"),
    "HuBERT as WavLM": ({}, "wavlm", "family=hubert, and a WavLM has family=wavlm; --format fairseq"),
    "WavLM without gate": (dict(WAVLM, gru_rel_pos=False), "wavlm", "gru_rel_pos=False"),
    "WavLM's heads mixed": (
        dict(WAVLM, layer_heads=[4, 4], layer_head_numbers="[[0,1,2,3],[1,0,2,3]]"),
        "wavlm",
        "layer_head_numbers=",
    ),
    "uneven WavLM": (dict(WAVLM, layer_heads=[4, 1]), "wavlm", "layer_heads=[4, 1]"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_uneven_student_is_refused_with_its_setting(case, tmp_path, capsys):
    settings, chosen, sentence = UNFIT[case]
    write_student(tmp_path / "student.pt", **settings)
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "out.pt"), "--format", chosen]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        error.startswith(f"fairseq-distill export: {tmp_path / 'student.pt'} is not exported: ") and sentence in error
    )
    assert [path.name for path in tmp_path.iterdir()] == ["student.pt"]


# a value other than the default for every field of the settings, that still makes a network
OTHERS = {
    "family": "wav2vec2",
    "extractor_mode": "layer_norm",
    "layer_type": "conformer",
    "activation_fn": "relu",
    "conv_feature_layers": "[(24,10,5)]",
    "layer_heads": [1, 2],
    "layer_ffn_dims": [1, 2],
    "layer_head_numbers": "[[0,1],[1,0]]",
    "reuse_attention": [2],
    "prune": ["ffn"],
    "latent_temp": [1.0, 1.0, 1.0],
    "attn_type": "espnet",
    "pos_enc_type": "rope",
    "mask_selection": "normal",
    "mask_channel_selection": "normal",
}


def change(name, kind):
    """The field's value, another than its default and than what `kind` has."""
    if name in OTHERS:
        return OTHERS[name]
    value = kind.get(name, getattr(EncoderConfig(), name))
    return (not value) if isinstance(value, bool) else value + 1


NAMES = [f.name for f in fields(EncoderConfig) if f.name != "_name"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm"])
def test_every_setting_is_the_formats_own_or_harmless_or_refused(family, name):
    """Derived from the settings of both sides: a field that is added to ours is refused until somebody decides."""
    kind = {**SMALL, "encoder_layers": 2, "family": family, **(WAVLM if family == "wavlm" else {})}
    config = EncoderConfig.from_settings({**kind, name: change(name, kind)})
    module = microsoft_wavlm if family == "wavlm" else stock_fairseq
    known = {
        "hubert": {f.name for f in fields(HubertConfig)} | {"normalize"},
        "wav2vec2": {f.name for f in fields(Wav2Vec2Config)} | {"normalize"},
        "wavlm": set(microsoft_wavlm._SETTINGS),
    }[family]
    source = Source(EncoderCheckpoint("student.pt", "speech_student", config, {}, 16_000), None, config, [])
    fixed = family == "wavlm" and name in microsoft_wavlm._REQUIRED
    if not fixed and (name in known or name in HARMLESS):
        module.check(source)
        return
    with pytest.raises(UserError, match=name):
        module.check(source)


def test_what_is_harmless_names_settings_that_exist_and_change_no_feature():
    assert set(HARMLESS) <= set(NAMES)
    assert not set(HARMLESS) & {
        "layer_heads",
        "layer_ffn_dims",
        "head_dim",
        "time_reduction",
        "reuse_attention",
        "prune",
    }
    changed = {name: change(name, {}) for name in HARMLESS if name not in ("family", "label_rate")}
    torch.manual_seed(0)
    from fairseq_distill.encoder.model import SpeechEncoder

    one = SpeechEncoder(EncoderConfig.from_settings(SMALL)).eval()
    other = SpeechEncoder(EncoderConfig.from_settings({**SMALL, **changed})).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    waves = torch.randn(1, 1500)
    assert all(torch.equal(a, b) for a, b in zip(one(waves).hidden, other(waves).hidden))


@pytest.mark.parametrize(
    "written, plain",
    [
        (dict(layer_heads=[4, 4, 4], layer_ffn_dims=[80, 80, 80], project_features=True), {}),
        (dict(layer_heads=[3, 3, 3], head_dim=16), dict(encoder_attention_heads=3)),
        (dict(layer_ffn_dims=[9, 9, 9]), dict(encoder_ffn_embed_dim=9)),
        (dict(head_dim=12), {}),
        (dict(num_buckets=7, max_distance=9, gru_rel_pos=True), {}),
        (
            dict(family="data2vec", project_features=True, encoder_embed_dim=32),
            dict(family="data2vec", encoder_embed_dim=32),
        ),
        (dict(WAVLM, layer_heads=[4] * 3, layer_head_numbers="[[0,1,2,3],[0,1,2,3],[0,1,2,3]]"), WAVLM),
    ],
)
def test_what_prune_writes_for_each_layer_is_one_number_where_all_are_alike(written, plain):
    assert simplify(EncoderConfig.from_settings({**SMALL, **written})) == EncoderConfig.from_settings(
        {**SMALL, **plain}
    )


@pytest.mark.parametrize("kept", [UNEVEN, dict(layer_heads=[2, 2, 2]), dict(WAVLM, layer_heads=[3] * 3, head_dim=16)])
def test_what_no_single_number_says_stays(kept):
    config = EncoderConfig.from_settings({**SMALL, **kept})
    assert simplify(config).layer_heads == kept["layer_heads"]


def test_a_pruned_student_that_is_even_is_written(tmp_path, capsys):
    write_student(tmp_path / "gated.pt", prune=["heads", "ffn"], target_sparsity=0.1)
    gated = torch.load(tmp_path / "gated.pt", weights_only=False)
    for key, value in gated["model"].items():
        if key.startswith("gates."):
            value.fill_(5.0)  # open
    for start in (0, 80):  # of either layer's neurons
        gated["model"]["gates.kinds.ffn.log_alpha"][start : start + 20] = -20.0
    torch.save(gated, tmp_path / "gated.pt")
    assert main(["prune", str(tmp_path / "gated.pt"), str(tmp_path / "pruned.pt")]) == 0
    assert read_source(tmp_path / "pruned.pt").checkpoint.config.layer_ffn_dims == [60, 60]
    assert main(["export", str(tmp_path / "pruned.pt"), str(tmp_path / "out.pt"), "--format", "fairseq"]) == 0
    settings = torch.load(tmp_path / "out.pt", weights_only=True)["cfg"]["model"]
    assert settings["encoder_ffn_embed_dim"] == 60 and "written to" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_beyond_the_bar_nothing_is_written(kind, tmp_path, capsys, monkeypatch):
    settings, chosen = KINDS[kind]
    source, output = tmp_path / "student.pt", tmp_path / "new" / "out.pt"
    write_student(source, **settings)
    module = writing.FORMATS[chosen]
    write = module.write

    def write_wrong(source, path):
        write(source, path)
        state = torch.load(path, weights_only=True)
        state["model"]["encoder.layers.1.fc2.bias"][0] += 0.01
        torch.save(state, path)

    monkeypatch.setattr(module, "write", write_wrong)
    assert main(["export", str(source), str(output), "--format", chosen]) == 1
    error = capsys.readouterr().err
    assert "it differs from" in error and "more than 1e-05" in error and not list(output.parent.iterdir())


def test_values_that_are_no_numbers_are_not_exported(tmp_path, capsys):
    source = tmp_path / "student.pt"
    write_student(source)
    state = torch.load(source, weights_only=False)
    state["model"]["encoder.layers.1.fc2.bias"][3] = float("nan")
    torch.save(state, source)
    assert main(["export", str(source), str(tmp_path / "out.pt"), "--format", "fairseq"]) == 1
    assert "not finite" in capsys.readouterr().err and not (tmp_path / "out.pt").exists()


def test_a_file_that_the_other_code_does_not_open_is_not_put_in_place(tmp_path, capsys, monkeypatch):
    write_student(tmp_path / "student.pt")
    monkeypatch.setattr(stock_fairseq, "_make_task", lambda kind, source: {"_name": "no_such_task"})
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "out.pt"), "--format", "fairseq"]) == 1
    assert "stock fairseq does not run what was exported" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["student.pt"]


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path, capsys, monkeypatch):
    source, output = tmp_path / "student.pt", tmp_path / "out.pt"
    write_student(source)
    output.write_text("earlier")
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "TOLERANCE", 1e-5)

        def fail(*arguments, **options):
            raise OSError(28, "No space left on device")

        patch.setattr(torch, "save", fail)
        assert main(["export", str(source), str(output), "--format", "fairseq"]) == 1
    assert "No space left on device" in capsys.readouterr().err and output.read_text() == "earlier"
    assert main(["export", str(source), str(source), "--format", "fairseq"]) == 1
    assert "is the file that is exported" in capsys.readouterr().err
    assert main(["export", str(source), str(tmp_path / "student.pt" / "out.pt"), "--format", "fairseq"]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main(["export", str(source), str(output), "--format", "fairseq"]) == 0  # as prune does
    assert torch.load(output, weights_only=True)["cfg"]["model"]["_name"] == "hubert"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt", "student.pt"]

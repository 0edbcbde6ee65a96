"""`export --format transformers`: what AutoModel makes of the folder, without fairseq, beside what the student says."""

import json

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.cli.main import main
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.export import transformers_folder
from fairseq_distill.export.source import read_source
from fairseq_distill.export.transformers_classes import find_class, has_exact_padding, make_reference

from ..builders import LARGE, SHAPES, SMALL, UNEVEN, WAVLM, build_encoder, make_waves
from .outside import need, run_without_fairseq, save_what_it_says
from .students import write_student

# settings, and the class that opens them
OWN = {
    "hubert": ({}, "HubertModel"),
    "large": (dict(LARGE, normalize=True), "HubertModel"),
    "layer-norm extractor, post-norm": (dict(extractor_mode="layer_norm"), "HubertModel"),
    "wav2vec2": (dict(family="wav2vec2", conv_bias=True), "Wav2Vec2Model"),
    "wav2vec2 large": (dict(family="wav2vec2", **LARGE), "Wav2Vec2Model"),
    "wavlm": (WAVLM, "WavLMModel"),
    "wavlm large": (dict(WAVLM, **LARGE), "WavLMModel"),
    "no projection": (dict(encoder_embed_dim=32), "HubertModel"),
    "batch norm": (dict(conv_pos_batch_norm=True), "HubertModel"),
    "batch norm, wav2vec2": (dict(conv_pos_batch_norm=True, family="wav2vec2"), "HubertModel"),
    "odd kernel, other activation": (dict(conv_pos=15, activation_fn="gelu_accurate"), "HubertModel"),
    "other sizes": (
        dict(
            encoder_layers=5,
            encoder_embed_dim=24,
            encoder_attention_heads=3,
            encoder_ffn_embed_dim=7,
            conv_feature_layers="[(8,10,5),(16,1,1)] + [(12,3,2)] * 2 + [(20,2,2)]",
        ),
        "HubertModel",
    ),
}
SHIPPED = {
    "uneven": dict(layer_heads=[3, 0], layer_ffn_dims=[0, 7], normalize=True),
    "uneven large": dict(LARGE, layer_heads=[0, 2], layer_ffn_dims=[9, 0]),
    "head width": dict(head_dim=5),
    "wavlm without gate": dict(WAVLM, gru_rel_pos=False),
    "wavlm with other heads": {**WAVLM, "layer_heads": [4, 4], "layer_head_numbers": "[[1,0,2,3],[0,1,2,3]]"},
    "data2vec": dict(family="data2vec", pos_conv_depth=3, extractor_mode="layer_norm"),
    "maps reused": dict(reuse_attention=[2], time_reduction=2),
}

OPEN = """
import os, tempfile, torch
os.environ["HF_HUB_OFFLINE"], os.environ["HF_HOME"] = "1", tempfile.mkdtemp()
from transformers import AutoFeatureExtractor, AutoModel
for folder in sys.argv[1:]:
    expected = torch.load(folder + ".expected")
    model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = [{"input_values": wave[None]} for wave in expected["waves"]]
    inputs.append({"input_values": expected["batch"], "attention_mask": (~expected["mask"]).long()})
    for given, say in zip(inputs, expected["say"]):
        with torch.no_grad():
            output = model.eval()(**given, output_hidden_states=True)
        valid = torch.ones(say[0].shape[:2], dtype=bool)
        if "attention_mask" in given:
            valid = ~expected["frame_mask"]
        # the last of hidden_states is before or behind the final LayerNorm, by the version of transformers
        own = type(model).__name__ != "PortableModel"
        ours, theirs = say, [*output.hidden_states, output.last_hidden_state]
        assert len(ours) == len(theirs)
        if own:
            del ours[-2], theirs[-2]
        for a, b in zip(ours, theirs):
            assert a.shape == b.shape, folder
            difference = float((a - b)[valid].norm() / a[valid].norm())
            assert difference <= 2e-6, (folder, difference)
    print("opened", type(model).__name__, extractor.do_normalize, extractor.return_attention_mask)
"""


def write_folder(tmp_path, name, settings):
    """An exported folder, and what it has to say beside it."""
    write_student(tmp_path / "student.pt", **settings)
    source, folder = read_source(tmp_path / "student.pt"), tmp_path / name
    folder.mkdir()
    transformers_folder.write(source, folder)
    encoder = load_encoder(tmp_path / "student.pt")
    if find_class(source.config) and not has_exact_padding(source.config):
        encoder = make_reference(encoder)
    else:
        encoder.exact_padding = True
    save_what_it_says(f"{folder}.expected", encoder, normalized=True)
    return folder


def test_uniform_students_are_transformers_own_models(tmp_path):
    need("transformers", "safetensors")
    folders = [write_folder(tmp_path, name, settings) for name, (settings, _) in OWN.items()]
    lines = [line for line in run_without_fairseq(OPEN, *folders).splitlines() if line.startswith("opened ")]
    assert lines == [
        f"opened {name} {settings.get('normalize', False)} {settings.get('extractor_mode') == 'layer_norm'}"
        for settings, name in OWN.values()
    ]
    assert not any(list(folder.glob("*.py")) for folder in folders)


def test_all_others_come_with_their_code(tmp_path):
    need("transformers", "safetensors")
    folders = [write_folder(tmp_path, name, settings) for name, settings in SHIPPED.items()]
    lines = [line for line in run_without_fairseq(OPEN, *folders).splitlines() if line.startswith("opened ")]
    assert lines == [f"opened PortableModel {s.get('normalize', False)} True" for s in SHIPPED.values()]


def test_what_is_one_of_their_models_and_what_is_not():
    def name(**settings):
        found = find_class(EncoderConfig.from_settings({**SMALL, **settings}))
        return found.name if found else None

    assert {kind: name(**settings) for kind, (settings, _) in OWN.items()} == {k: cls for k, (_, cls) in OWN.items()}
    alike = ["hubert", "pre-norm", "wavlm", "no projection", "projection all the same", "other convolutions"]
    others = ["uneven", "uneven wavlm", "head width", "time reduction", "maps reused", "data2vec"]
    assert all(name(**SHAPES[kind]) for kind in alike) and not any(name(**SHAPES[kind]) for kind in others)
    assert name(layer_heads=[2, 2, 2], head_dim=24) == "HubertModel" and name(layer_heads=[2, 2, 2]) is None
    assert name(layer_ffn_dims=[9, 9, 9]) == "HubertModel" and name(layer_ffn_dims=[0, 0, 0]) is None
    assert name(layer_heads=[0, 0, 0]) is None and name(**WAVLM, conv_pos_batch_norm=True) is None
    assert name(**{**WAVLM, "layer_heads": [2, 2, 2], "head_dim": 24}) is None  # its bias has four heads


@torch.no_grad()
def test_padding_of_their_models_is_exact_behind_layer_norm_extractors_alone():
    for settings, exact in ((LARGE, True), ({}, False)):
        encoder = build_encoder(**settings)
        reference = make_reference(encoder)
        encoder.exact_padding = True
        waves, mask = make_waves(padded=True)
        ours, theirs = encoder(waves, padding_mask=mask), reference(waves, padding_mask=mask)
        valid = ~ours.padding_mask
        assert torch.equal(ours.padding_mask, theirs.padding_mask)
        assert (float((ours.x - theirs.x)[valid].norm() / ours.x[valid].norm()) < 1e-6) == exact
        assert has_exact_padding(encoder.cfg) == exact


@pytest.mark.parametrize("kind", ["own", "shipped"])
def test_the_command_runs_transformers_before_the_folder_is_there(kind, tmp_path, capsys):
    need("transformers", "safetensors")
    settings = dict(LARGE, normalize=True) if kind == "own" else dict(UNEVEN, encoder_layers=3)
    write_student(tmp_path / "student.pt", sample_rate=8_000, **settings)
    folder = tmp_path / "out"
    assert main(["export", str(tmp_path / "student.pt"), str(folder), "--format", "transformers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"].startswith("HubertModel" if kind == "own" else "PortableModel")
    assert all(0 <= value < 2e-6 for value in found["largest_difference"].values())
    code = {"modeling_portable.py", "portable_model.py"} if kind == "shipped" else set()
    common = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {file.name for file in folder.iterdir()} == common | code
    config, extractor = (json.loads((folder / f"{n}.json").read_text()) for n in ("config", "preprocessor_config"))
    assert config["fairseq_distill"]["largest_difference"] == found["largest_difference"]
    assert extractor["sampling_rate"] == 8_000 and extractor["do_normalize"] == (kind == "own")
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: transformers") and "sampling_rate=8000" in readme
    assert ("trust_remote_code=True" in readme) == (kind == "shipped")
    lines = readme.split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 5
    before = f"import os, torch\nos.chdir({str(tmp_path)!r})\nwave = torch.randn(4000).numpy()\n"
    program = f"{before}{lines}\nprint(tuple(x.shape))"
    assert run_without_fairseq(program).splitlines()[-1] == "(1, 99, 48)"


def test_weights_that_do_not_fit_are_not_written(tmp_path, capsys, monkeypatch):
    need("transformers", "safetensors")
    write_student(tmp_path / "student.pt")
    names = transformers_folder.name_weights

    def lose(*arguments):
        weights = names(*arguments)
        del weights["encoder.layers.1.layer_norm.bias"]
        return weights

    monkeypatch.setattr(transformers_folder, "name_weights", lose)
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "out"), "--format", "transformers"]) == 1
    assert "encoder.layers.1.layer_norm.bias" in capsys.readouterr().err and not (tmp_path / "out").exists()

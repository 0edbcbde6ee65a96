"""`export --format transformers` of models that stock fairseq fine-tuned by CTC: scores and texts beside theirs."""

import json
from types import SimpleNamespace

import pytest
import torch

from fairseq_distill.cli.main import main
from fairseq_distill.export import transformers_folder
from fairseq_distill.export.source import read_source
from fairseq_distill.export.transformers_ctc import convert_output, read_recogniser

from ..checkpoints import layouts
from ..checkpoints.ctc_layouts import FineTuned, make_noise
from .outside import need, run_without_fairseq
from .students import write_student

LETTERS = ["|", "e", "t", "'"]
UNEVEN = dict(layer_heads=[3, 0], layer_ffn_dims=[0, 7], normalize=True)

OPEN = """
import os, tempfile, torch
os.environ["HF_HUB_OFFLINE"], os.environ["HF_HOME"] = "1", tempfile.mkdtemp()
from transformers import AutoModel, AutoModelForCTC, AutoProcessor
for folder in sys.argv[1:]:
    expected = torch.load(folder + ".expected")
    model, info = AutoModelForCTC.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor([expected["wave"].numpy()], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
        inner = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**inputs).last_hidden_state
    scores = expected["scores"]
    assert logits.shape == scores.shape and (logits - scores).norm() <= 1e-4 * scores.norm(), folder
    assert torch.equal(model.lm_head(inner), logits)
    text = processor.batch_decode(logits.argmax(-1))[0]
    assert text == expected["text"] and len(text) > 9, (folder, text, expected["text"])
    print("opened", type(model).__name__)
"""


@torch.no_grad()
def write_uneven(path, dictionary):
    """A fine-tuned file around an uneven student; returns the student and its output layer."""
    student = write_student(path.with_suffix(".student"), **UNEVEN)
    inner = torch.load(path.with_suffix(".student"), weights_only=False)
    output = torch.nn.Linear(48, len(dictionary))
    output.weight.mul_(5)
    weights = {f"w2v_encoder.w2v_model.{key}": value for key, value in inner["model"].items() if "head." not in key}
    weights.update({f"w2v_encoder.proj.{key}": value for key, value in output.state_dict().items()})
    settings = layouts.fine_tuned_settings("hubert_ctc", True, inner["cfg"])
    cfg = layouts.hydra_cfg("hubert_ctc", settings, {**layouts.hubert_task(True), "labels": ["ltr"]})
    cfg["criterion"] = {"_name": "ctc"}
    layouts.write_fairseq(path, weights, cfg=cfg, task_state={"target_dictionary": dictionary})
    return student, output


def say(dictionary, scores):
    """The text of scores (frames, tokens): transformers calls fairseq's blank <pad>, and its padding <s>."""
    best = torch.unique_consecutive(scores.argmax(-1)).tolist()
    return "".join({"|": " ", "<pad>": "<s>"}.get(dictionary[n], dictionary[n]) for n in best if n != 0).strip()


@torch.no_grad()
def test_recognisers_are_transformers_recognisers(tmp_path):
    need("transformers", "safetensors")
    stock = {"hubert": {}, "hubert large": {}, "wav2vec2": dict(blank_weight=0.7), "wav2vec2 large": {}}
    for kind, settings in stock.items():
        tuned, folder, wave = FineTuned(kind, LETTERS, **settings), tmp_path / kind, make_noise()
        tuned.write_hydra(tmp_path / "tuned.pt", **settings)
        folder.mkdir()
        transformers_folder.write(read_source(tmp_path / "tuned.pt"), folder)
        result = tuned._run(wave)
        scores = tuned.network.get_logits(result)[:, 0]
        text = say(tuned.dictionary, scores)
        torch.save({"wave": wave, "scores": scores[None], "text": text}, f"{folder}.expected")
    tuned, folder, wave = FineTuned("hubert", LETTERS), tmp_path / "uneven", make_noise()
    student, output = write_uneven(tmp_path / "uneven.pt", tuned.dictionary)
    folder.mkdir()
    transformers_folder.write(read_source(tmp_path / "uneven.pt"), folder)
    scores = output(student.eval()(torch.nn.functional.layer_norm(wave, wave.shape)[None]).x)
    text = say(tuned.dictionary, scores[0])
    torch.save({"wave": wave, "scores": scores, "text": text}, f"{folder}.expected")
    printed = run_without_fairseq(OPEN, *(tmp_path / kind for kind in (*stock, "uneven"))).splitlines()
    names = ["HubertForCTC"] * 2 + ["Wav2Vec2ForCTC"] * 2 + ["PortableForCTC"]
    assert [line.split()[1] for line in printed if line.startswith("opened ")] == names


@pytest.mark.parametrize("shape", ["even", "uneven"])
def test_the_command_compares_scores_before_the_folder_is_there(shape, tmp_path, capsys, monkeypatch):
    need("transformers", "safetensors")
    source, folder = tmp_path / "tuned.pt", tmp_path / "out"
    if shape == "even":
        FineTuned("hubert large", LETTERS).write_hydra(source)
    else:
        write_uneven(source, FineTuned("hubert", LETTERS).dictionary)
    arguments = ["export", str(source), str(folder), "--format", "transformers", "--json"]
    with monkeypatch.context() as patch:

        def convert_wrong(model):
            return {key: value + 0.01 for key, value in convert_output(model).items()}

        patch.setattr(transformers_folder, "get_reference", lambda _: transformers_folder.Recogniser(ours, head))
        ours = transformers_folder.make_reference(read_source(source).encoder)
        head = convert_wrong(read_recogniser(read_source(source)).model)
        assert main(arguments) == 1 and not folder.exists()
        assert "it differs from" in capsys.readouterr().err
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"].startswith("HubertForCTC" if shape == "even" else "PortableForCTC")
    assert not any("w2v_encoder.proj" in name for name in found["left_out"])
    assert all(0 <= value < 2e-6 for value in found["largest_difference"].values())
    readme = (folder / "README.md").read_text()
    assert "automatic-speech-recognition" in readme and "batch_decode" in readme and "w2v_encoder.proj" not in readme
    assert json.loads((folder / "vocab.json").read_text())["<pad>"] == 0
    lines = readme.split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 5
    program = (
        f"import os, torch\nos.chdir({str(tmp_path)!r})\nwave = torch.randn(9000).numpy()\n{lines}\nprint(len(texts))"
    )
    assert run_without_fairseq(program).splitlines()[-1] == "1"
    assert main(arguments) == 0, "an earlier export is replaced, its tokens too"


def test_tokens_that_transformers_cannot_join_have_numbers_or_nothing(tmp_path):
    need("safetensors")
    for name, symbols, inside, files in (
        ("pieces", ["▁the", "▁a", "s"], True, {"vocab.json"}),
        ("none", LETTERS, False, set()),
        ("blank", ["a", "<ctc_blank>"], True, {"vocab.json", "tokenizer_config.json"}),
    ):
        FineTuned("hubert", symbols).write_hydra(tmp_path / "tuned.pt", inside=inside)
        folder = tmp_path / name
        folder.mkdir()
        transformers_folder.write(read_source(tmp_path / "tuned.pt"), folder)
        written = {file.name for file in folder.iterdir()} & {"vocab.json", "tokenizer_config.json"}
        assert written == files, name
        config = json.loads((folder / "config.json").read_text())
        assert config["vocab_size"] == 4 + len(symbols)
        assert config["pad_token_id"] == (5 if name == "blank" else 0)
        if written:
            numbers = json.loads((folder / "vocab.json").read_text())
            assert sorted(numbers.values()) == list(range(4 + len(symbols)))
            assert numbers["<pad>"] == config["pad_token_id"] and numbers[symbols[0]] == 4


@torch.no_grad()
def test_what_fairseq_does_to_the_blank_is_in_the_output_layer():
    for weight, mode in ((0.0, "add"), (0.7, "add"), (0.7, "set")):
        output = torch.nn.Linear(5, 3)
        head = convert_output(SimpleNamespace(output=output, blank_weight=weight, blank_mode=mode))
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
        expected = output(x)
        if weight:
            expected[:, 0] = expected[:, 0] + weight if mode == "add" else weight
        assert torch.allclose(
            torch.nn.functional.linear(x, head["lm_head.weight"], head["lm_head.bias"]), expected, atol=1e-6
        )

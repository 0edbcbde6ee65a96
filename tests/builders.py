"""Small encoders, ours and stock fairseq's, that make every branch matter; waves, manifests and teachers' files."""

from pathlib import Path
from types import SimpleNamespace
from typing import List, Tuple

import numpy as np
import soundfile
import torch
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.models.speech_multitask import SpeechMultitask, SpeechMultitaskConfig
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig
from fairseq_distill.multitask.task_list import parse_tasks
from fairseq_distill.pruning.gates import add_gates

SMALL = dict(
    encoder_layers=3,
    encoder_embed_dim=48,
    encoder_ffn_embed_dim=80,
    encoder_attention_heads=4,
    conv_feature_layers="[(24,10,5)] + [(24,3,2)] * 2 + [(32,2,2)]",
    conv_pos=16,
    conv_pos_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
    final_dim=20,
)
# small enough to close every gate in turn
TINY = dict(
    SMALL,
    encoder_layers=2,
    encoder_embed_dim=12,
    encoder_ffn_embed_dim=5,
    encoder_attention_heads=3,
    conv_feature_layers="[(6,10,5), (5,3,2), (7,2,2)]",
    conv_pos=8,
    final_dim=10,
)
# what tells Large from Base, but the size
LARGE = dict(layer_norm_first=True, extractor_mode="layer_norm", conv_bias=True)
WAVLM = dict(family="wavlm", relative_position_embedding=True, gru_rel_pos=True, num_buckets=32, max_distance=20)
# every way in which encoders differ but in size, as changes of SMALL or TINY
KINDS = {
    "hubert": {},
    "pre-norm": dict(layer_norm_first=True),
    "layer-norm extractor": dict(extractor_mode="layer_norm", conv_bias=True),
    "large": LARGE,
    "wav2vec2": dict(family="wav2vec2", conv_bias=True),
    "data2vec": dict(family="data2vec", pos_conv_depth=3, extractor_mode="layer_norm"),
    "wavlm": WAVLM,
    "wavlm large": dict(WAVLM, layer_norm_first=True, extractor_mode="layer_norm"),
    "batch norm": dict(conv_pos_batch_norm=True),
    "no projection": dict(encoder_embed_dim=12, conv_feature_layers="[(6,10,5), (5,3,2), (12,2,2)]"),
}
# and in size, as changes of SMALL
UNEVEN = dict(layer_heads=[1, 0, 3], layer_ffn_dims=[0, 7, 80])
SHAPES = {
    **{name: kind for name, kind in KINDS.items() if name != "no projection"},
    "no projection": dict(encoder_embed_dim=32),
    "conv bias": dict(conv_bias=True),
    "projection all the same": dict(encoder_embed_dim=32, project_features=True),
    "scaled features": dict(scale_features=True),
    "data2vec of that width": dict(encoder_embed_dim=32, family="data2vec", pos_conv_depth=2),
    "odd kernel": dict(conv_pos=15),
    "head width": dict(head_dim=5),
    "uneven": UNEVEN,
    "uneven large": {**UNEVEN, **LARGE},
    "uneven wavlm": {**UNEVEN, **WAVLM},
    "position bias without gate": {**WAVLM, "gru_rel_pos": False},
    "other convolutions": dict(conv_feature_layers="[(8,10,5),(16,1,1)] + [(16,3,2)] * 3 + [(48,2,2)]"),
    "time reduction": dict(time_reduction=3),
    "maps reused": dict(reuse_attention=[2, 3]),
    "maps reused, pre-norm": dict(reuse_attention=[2], time_reduction=2, **LARGE),
    "maps reused, wavlm": {**WAVLM, "reuse_attention": [3]},
}
UNITS = ["conv", "heads", "ffn"]
PARTS = ["attention_layers", "ffn_layers"]
CLASSES = {"keyword": ["no", "yes", "maybe"], "speaker": ["ann", "bob", "cid", "dan"]}
TASKS = [
    {"name": "keyword", "kind": "classification", "batch_norm": True},
    {"name": "speaker", "kind": "verification", "embedding_dim": 12},
]


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter, also zero biases and norms of one, a value that shows when it is misused."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
            else:
                parameter.mul_(1 + 0.1 * noise).add_(0.02 * noise)
    return model.eval()


def build_dictionary(size: int = 12) -> Dictionary:
    """A dictionary with `size` entries besides fairseq's four."""
    dictionary = Dictionary()
    for index in range(size):
        dictionary.add_symbol(str(index))
    return dictionary


def build_stock_hubert(dictionaries=None, **settings) -> HubertModel:
    """Stock HuBERT of SMALL shape with `settings` changed."""
    cfg = HubertConfig(label_rate=400.0, **{**SMALL, **settings})
    dictionaries = dictionaries or [build_dictionary()]
    return randomize(HubertModel(cfg, SimpleNamespace(sample_rate=16_000), dictionaries))


def build_stock_wav2vec2(**settings) -> Wav2Vec2Model:
    """Stock wav2vec 2.0 of SMALL shape with `settings` changed."""
    cfg = Wav2Vec2Config(quantize_targets=True, latent_vars=10, latent_dim=16, **{**SMALL, **settings})
    return randomize(Wav2Vec2Model(cfg))


def build_encoder(**settings) -> SpeechEncoder:
    """An encoder of SMALL shape with `settings` changed, in evaluation mode."""
    torch.manual_seed(0)
    return randomize(SpeechEncoder(EncoderConfig.from_settings({**SMALL, **settings})))


def build_empty(**settings) -> SpeechEncoder:
    """An encoder of full size without memory for its weights."""
    with torch.device("meta"):
        return SpeechEncoder(EncoderConfig(**settings))


def build_gated(seed: int = 0, **settings) -> SpeechEncoder:
    """An encoder of TINY shape with `settings` changed and with gates, in evaluation mode."""
    torch.manual_seed(seed)
    encoder = SpeechEncoder(EncoderConfig.from_settings({**TINY, "prune": UNITS, **settings}))
    add_gates(encoder)
    return randomize(encoder, seed)


def spread_gates(encoder: SpeechEncoder, mean: float = 0.5, std: float = 2.0, seed: int = 3) -> None:
    """Random log_alpha: some gates closed in evaluation, the others soft."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for log_alpha in encoder.gates.parameters():
            log_alpha.copy_(mean + std * torch.randn(log_alpha.shape, generator=generator))


def build_student(init="", **settings) -> SpeechStudent:
    """A student of two layers, as fairseq builds it; `init` is the checkpoint that it starts from."""
    cfg = SpeechStudentConfig(init=init, **{**SMALL, "encoder_layers": 2, **settings})
    task = SimpleNamespace(cfg=SimpleNamespace(normalize=False, sample_rate=16_000), state=SimpleNamespace())
    return SpeechStudent.build_model(OmegaConf.structured(cfg), task)


def build_multitask(tasks=TASKS, **settings) -> SpeechMultitask:
    """A model of SMALL shape with weights that make every branch matter."""
    torch.manual_seed(0)
    cfg = SpeechMultitaskConfig(**{**SMALL, **settings})
    return randomize(SpeechMultitask(cfg, parse_tasks(tasks), CLASSES))


def make_waves(batch: int = 3, samples: int = 4000, padded: bool = False, seed: int = 1):
    """(waves (batch, samples), padding_mask or None): the first wave is whole, the others are cut at odd lengths."""
    waves = torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))
    if not padded:
        return waves, None
    lengths = torch.tensor([samples] + [samples * (batch - i) // (batch + 1) + 37 for i in range(batch - 1)])
    mask = torch.arange(samples)[None, :] >= lengths[:, None]
    return waves.masked_fill(mask, 0.0), mask


@torch.no_grad()
def relative_error(one: SpeechEncoder, other: SpeechEncoder, samples: int = 1200) -> float:
    """Largest difference of features, hidden states and output on padded waves, as a fraction of their norm."""
    waves, mask = make_waves(batch=2, samples=samples, padded=True)
    outputs = [encoder(waves, padding_mask=mask) for encoder in (one, other)]
    valid = ~outputs[0].padding_mask
    assert torch.equal(outputs[0].padding_mask, outputs[1].padding_mask) and 0 < valid.sum() < valid.numel()
    pairs: List[Tuple[Tensor, Tensor]] = list(zip(*((*out.hidden, out.x, out.features) for out in outputs)))
    return max(float((a[valid] - b[valid]).norm() / a[valid].norm()) for a, b in pairs)


def write_data(
    folder: Path, lengths=(9000, 8000, 7000, 8000), copies=2, splits=("train", "valid"), rate=16_000
) -> Path:
    """Manifests over waves of noise of those many samples."""
    audio = folder / "audio"  # fairseq takes any valid* beside the manifests for another validation set
    audio.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in splits:
        rows = []
        for index, length in enumerate(list(lengths) * copies):
            name = f"{split}{index}.flac"
            soundfile.write(audio / name, 0.1 * rng.standard_normal(length), rate)
            rows.append(f"{name}\t{length}")
        (folder / f"{split}.tsv").write_text("\n".join([str(audio), *rows]) + "\n")
    return folder


def save_teacher(path, seed=0, normalize=False, sample_rate=None, **settings):
    """Write a stock HuBERT the way fairseq does; returns the path as text."""
    torch.manual_seed(seed)
    stock = build_stock_hubert(**settings)
    cfg = {
        "model": {"_name": "hubert", **SMALL, **settings},
        "task": {"_name": "hubert_pretraining", "normalize": normalize},
    }
    if sample_rate:  # 16 kHz where a file names none
        cfg["task"]["sample_rate"] = sample_rate
    torch.save({"args": None, "cfg": cfg, "model": stock.state_dict()}, path)
    return str(path)


def write_teacher(folder: Path, name="teacher.pt", **settings) -> str:
    """A stock HuBERT of SMALL shape."""
    folder.mkdir(parents=True, exist_ok=True)
    return save_teacher(folder / name, **settings)

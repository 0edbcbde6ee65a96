"""Writes fixtures/wav2vec_ctc_omegaconf_VERSION.pt: settings as the installed omegaconf pickles them.

    python -m tests.checkpoints.make_fixtures

Run it with omegaconf 2.0 and numpy 1, and again with omegaconf 2.3 and numpy 2.

fairseq pickled its whole config like this before it saved plain dicts (October 2020 to March 2021): `cfg` is a
DictConfig with the pretraining settings inside, where a Namespace may stand that omegaconf was talked into keeping.
"""

from argparse import Namespace
from pathlib import Path

import omegaconf
import torch
from fairseq.dataclass.utils import omegaconf_no_object_check
from omegaconf import OmegaConf

from . import layouts

FOLDER = Path(__file__).parent / "fixtures"
TINY = dict(encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=12, encoder_attention_heads=2, conv_pos=4)
SHAPE = dict(TINY, conv_pos_groups=2, conv_feature_layers="[(6,10,5)] + [(6,3,2)] * 2", latent_vars=2, latent_dim=4)


def main() -> None:
    """Write the file of the installed version."""
    model = layouts.build_wav2vec2(**SHAPE)
    task = {"_name": "audio_pretraining", "normalize": False, "sample_rate": 16_000, "labels": ["ltr", "wrd"]}
    settings = layouts.plain_settings(model.cfg, _name="wav2vec2")
    settings["latent_temp"] = list(settings["latent_temp"])
    cfg = OmegaConf.create({"common": {"fp16": True, "seed": 1}, "task": task, "criterion": {"_name": "ctc"}})
    with omegaconf_no_object_check():
        inner = OmegaConf.create({"task": task, "model": settings, "criterion": None})
        cfg.model = {"_name": "wav2vec_ctc", "w2v_path": "/nowhere/w2v.pt", "normalize": False, "w2v_args": inner}
        if omegaconf.__version__ < "2.1":  # later ones need a flag for it
            cfg.optimizer = Namespace(lr=[1e-4], optimizer="adam")
    OmegaConf.set_struct(cfg, True)
    weights = {f"w2v_encoder.w2v_model.{k}": v for k, v in model.state_dict().items() if not _is_pretraining(k)}
    weights.update({"w2v_encoder.proj.weight": torch.ones(5, 8), "w2v_encoder.proj.bias": torch.zeros(5)})
    FOLDER.mkdir(exist_ok=True)
    name = f"wav2vec_ctc_omegaconf_{omegaconf.__version__}.pt"
    layouts.write_fairseq(FOLDER / name, weights, cfg=cfg)


def _is_pretraining(key: str) -> bool:
    return key.startswith(("quantizer", "project_q", "final_proj"))


if __name__ == "__main__":
    main()

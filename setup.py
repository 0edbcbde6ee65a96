"""Package metadata; which fairseq fits which Python is decided here, in the extra `fairseq`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# The plain install brings nothing that owns `fairseq/` and no torch, hydra or omegaconf: people have their own fairseq.
PLAIN = ["numpy", "scikit-learn", "scipy", "sentencepiece", "soundfile", "tqdm"]

FAIRSEQ = [
    # The original pins omegaconf 2.0, whose metadata pip 24.1 and later refuse; it is built from source.
    "fairseq==0.12.2; python_version < '3.11'",
    # Wheels of fairseq's main branch, whose dataclasses Python 3.11 accepts.
    "ve-fairseq==0.12.3; python_version >= '3.11'",
    "hydra-core>=1.3,<1.4; python_version >= '3.11'",
    "omegaconf>=2.3,<2.4; python_version >= '3.11'",
    # torchaudio's library must match torch: 2.11.1 calls a function that torch 2.11.0 lacks, and does not load.
    # 2.8 is the last pair for Python 3.9.
    "torch==2.8.0; python_version < '3.10'",
    "torchaudio==2.8.0; python_version < '3.10'",
    "torch==2.11.0; python_version >= '3.10'",
    "torchaudio==2.11.0; python_version >= '3.10'",
    # fairseq's ctc criterion imports it when it validates.
    "editdistance",
    # fairseq writes tensorboard logs with it where `common.tensorboard_logdir` is set.
    "tensorboardX",
]

PLOTS = ["matplotlib"]

# s3prl's recipes, for examples/superb. It needs omegaconf 2.1, which fairseq 0.12.2, for older Pythons, cannot have.
SUPERB = [
    f"{name}; python_version >= '3.11'"
    for name in (
        "s3prl==0.4.18",
        # what its recipes import and it does not require; its own extras pin packages that no longer install
        "editdistance",
        "joblib",
        "librosa",
        "pandas",
        "tensorboard",
        "tensorboardX",
    )
]

# What opens the files of `fairseq-distill export`; newer releases of most need Python 3.10.
EXPORT = [
    "safetensors",
    "transformers; python_version >= '3.10'",
    "onnx; python_version >= '3.10'",
    "onnxscript; python_version >= '3.10'",
    "onnxruntime; python_version >= '3.10'",
]

DEV = [
    "pytest",
    # Most tests keep one core busy, so several files run at once.
    "pytest-xdist",
    # It makes wheels by itself, which the install tests need.
    "setuptools>=70.1",
    # The speech of tests and examples is synthesised.
    "espeakng-loader",
    # .ci/run checks the source on the newer stack.
    "ruff==0.17.6; python_version >= '3.11'",
    "mypy==2.4.1; python_version >= '3.11'",
    "types-PyYAML; python_version >= '3.11'",
]

ROOT = Path(__file__).resolve().parent
# Read, not imported: fairseq, which the package needs, may not be there yet.
INIT = (ROOT / "fairseq_distill" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE).group(1)

setup(
    name="fairseq-distill",
    version=VERSION,
    description="Distil speech encoders (HuBERT, wav2vec 2.0, WavLM) into small ones inside fairseq",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.9",
    # Naming the source folder makes editable installs a plain .pth line; setuptools' import hook, its default for this
    # layout, would hide the Hydra plugin from Hydra, which lists folders.
    package_dir={"": "."},
    # Hydra looks for plugins in the namespace `hydra_plugins`, which many distributions share: no __init__.py there.
    packages=find_packages(include=["fairseq_distill", "fairseq_distill.*"]) + ["hydra_plugins.fairseq_distill"],
    # `fairseq_distill/config` is a link to `config`; the wheel gets the files.
    package_data={"fairseq_distill": ["py.typed", "config/*/*.yaml", "config/*/*/*.yaml"]},
    install_requires=PLAIN,
    extras_require={"fairseq": FAIRSEQ, "plots": PLOTS, "export": EXPORT, "superb": SUPERB, "dev": DEV},
    entry_points={"console_scripts": ["fairseq-distill = fairseq_distill.cli.main:main"]},
)

"""Multiply-accumulates as SUPERB's leaderboard counts them: their sum over its 32 utterances of LibriSpeech test-clean.

    python examples/superb/count_macs.py CKPT

The leaderboard's own script (https://github.com/B06901052/DeepSpeed, branch superb-challenge) runs the model and adds
up what torch's functions multiply; here the count follows from the settings, as in `fairseq-distill info`.
docs/superb.md says how near the two are, and where they part.
"""

import argparse
import json
from typing import List

from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.size import measure_parts

# samples at 16 kHz, from the comments of that script; in four groups of eight: short, medium, long, longer
LENGTHS = [
    *(20_560, 34_560, 38_480, 42_560, 45_600, 48_720, 52_000, 55_120),
    *(59_120, 62_720, 66_400, 71_200, 75_200, 78_640, 82_800, 87_520),
    *(92_720, 98_560, 104_400, 111_120, 118_480, 125_040, 132_720, 142_640),
    *(154_000, 166_720, 180_880, 197_920, 217_920, 239_280, 268_160, 326_000),
]
SAMPLE_RATE = 16_000


def count_groups(cfg: EncoderConfig) -> List[int]:
    """Multiply-accumulates of the four groups of utterances, each by itself."""
    counts = [sum(part.macs for part in measure_parts(cfg, length / SAMPLE_RATE)) for length in LENGTHS]
    return [sum(counts[start : start + 8]) for start in range(0, len(counts), 8)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="any file that fairseq-distill info reads")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    groups = count_groups(read_checkpoint(args.checkpoint).config)
    if args.json:
        print(json.dumps({"checkpoint": args.checkpoint, "superb_macs": sum(groups), "groups": groups}))
    else:
        shown = ", ".join(f"{count / 1e9:.2f}" for count in groups)
        print(f"{args.checkpoint}: {sum(groups) / 1e9:.1f} GMACs (short, medium, long, longer: {shown})")


if __name__ == "__main__":
    main()

"""Run s3prl 0.4.18 with the upstream `fairseq_distill`; no file of s3prl is changed.

    python examples/superb/run_s3prl.py SuperbKS --target_dir OUT --prepare_data.gsc1 ... \
        --build_upstream.name fairseq_distill --build_upstream.path_or_url student.pt
    python examples/superb/run_s3prl.py -m train -d speech_commands -u fairseq_distill -k student.pt -p OUT -c ks.yaml

A recipe of `s3prl.problem` comes first and goes to s3prl-main; options go to s3prl's run_downstream. Both are as s3prl
has them.
"""

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import List

sys.path.insert(0, str(Path(__file__).resolve().parent))

import absent_packages
import joblib
import removed_functions

from fairseq_distill.errors import UserError


def prepare() -> None:
    """Make s3prl importable, and `fairseq_distill` one of its upstreams; call it before anything of s3prl."""
    if importlib.util.find_spec("s3prl") is None:
        raise UserError("s3prl is not installed: pip install 'fairseq-distill[superb]' (s3prl 0.4.18)")
    removed_functions.install()
    absent_packages.install()
    # joblib's own processes start anew, without what is put back here
    joblib.parallel_config("threading")
    from s3prl import hub
    from upstream import fairseq_distill

    hub.fairseq_distill = fairseq_distill


def main(arguments: List[str]) -> None:
    """Hand the arguments on to s3prl."""
    prepare()
    module = "s3prl.run_downstream" if not arguments or arguments[0].startswith("-") else "s3prl.main"
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"run_s3prl: {error}")

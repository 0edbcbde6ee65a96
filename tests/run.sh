#!/usr/bin/env bash
# Make or reuse an environment with the extras of setup.py, then run the tests against this checkout.
#
#   bash tests/run.sh                                  all tests, on python3
#   PYTHON=python3.10 bash tests/run.sh -k encoder     another Python; arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/environment.sh

python=$(choose_python)
use_environment "$python"

# On busy cores, threads that wait by spinning take the time of those that work.
export OMP_WAIT_POLICY=PASSIVE
echo "testing in $environment"
python -m pytest -o testpaths=tests -ra --durations=10 "$@"

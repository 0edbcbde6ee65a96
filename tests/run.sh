#!/usr/bin/env bash
# Make or reuse an environment with the extras of setup.py, then run the tests against this checkout.
#
#   bash tests/run.sh                                  all tests, on python3
#   PYTHON=python3.10 bash tests/run.sh -k encoder     another Python; arguments go to pytest
#   bash tests/run.sh tests/pruning -n 0 --pdb         one file after the other, in this process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/environment.sh

python=$(choose_python)
use_environment "$python"

# On busy cores, threads that wait by spinning take the time of those that work.
export OMP_WAIT_POLICY=PASSIVE
echo "testing in $environment"
workers=$(python -c 'import os; print(min(4, os.cpu_count() or 1))')
# tests of a file share what it trains, so they stay together
python -m pytest -o testpaths=tests -ra --durations=10 -n "$workers" --dist loadfile "$@"

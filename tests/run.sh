#!/usr/bin/env bash
# Make or reuse an environment with the extras of setup.py, then run the tests against this checkout.
#
#   bash tests/run.sh                                  all tests, on python3
#   PYTHON=python3.10 bash tests/run.sh -k encoder     another Python; arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    { echo "PYTHON=$python: Python 3.9 or newer is needed" >&2; exit 1; }

# One environment per interpreter and requirements, outside the checkout: it takes minutes to make, and clones share it.
key=$({
    "$python" -c 'import os, sys; print(os.path.realpath(sys.executable), sys.version)'
    sed -n '/^PLAIN/,/^setup(/p' setup.py
    grep 'pip install' tests/run.sh
} | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
env=${XDG_CACHE_HOME:-$HOME/.cache}/fairseq-distill/python$version-$key
mkdir -p "$(dirname "$env")"

# Two runs at once must not build the same environment; closing the file unlocks it.
exec 9>"$env.lock"
if command -v flock >/dev/null; then flock 9; fi

if [ ! -e "$env/complete" ]; then
    echo "installing what the tests need on Python $version into $env (several minutes)"
    rm -rf "$env"
    "$python" -m venv "$env"
    # fairseq 0.12.2, for Python before 3.11, needs omegaconf 2.0, whose metadata pip 24.1 and later refuse.
    "$env/bin/python" -m pip install --quiet --upgrade 'pip<24.1' setuptools wheel
    "$env/bin/python" -m pip install --quiet '.[fairseq,plots,dev]'
    # Tests must see the checkout, not the copy that came with its requirements.
    "$env/bin/python" -m pip uninstall --quiet --yes fairseq-distill
    # Written last: an environment that was interrupted is built anew.
    touch "$env/complete"
fi
exec 9>&-

# On busy cores, threads that wait by spinning take the time of those that work.
export OMP_WAIT_POLICY=PASSIVE
echo "testing on Python $version in $env"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$env/bin/python" -m pytest -o testpaths=tests -ra --durations=10 "$@"

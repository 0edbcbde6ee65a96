# Sourced by run.sh: make or reuse an environment with this checkout, fairseq and espeak-ng in it, and activate it.
# It lives in the user's cache, one for each interpreter, checkout and list of requirements.

# Print the first of the given interpreters that is a Python 3.$1 to 3.$2 and can make environments.
find_python() {
    local oldest=$1 newest=$2 candidate
    shift 2
    for candidate in "$@"; do
        # a pyenv shim of a version not in use cannot be run, and is passed over
        "$candidate" 2>/dev/null - "$oldest" "$newest" <<'PYTHON' && return
import ensurepip, sys
ok = sys.version_info[0] == 3 and int(sys.argv[1]) <= sys.version_info[1] <= int(sys.argv[2])
print(sys.executable) if ok else sys.exit(1)
PYTHON
    done
    return 1
}

if [ -n "${PYTHON:-}" ]; then
    python=$(find_python 9 12 "$PYTHON") ||
        die "PYTHON=$PYTHON is no Python 3.9 to 3.12 that can make environments (on Debian, install python3-venv)"
else
    python=$(find_python 11 12 python3 python3.12 python3.11 || find_python 9 10 python3 python3.10 python3.9) ||
        die "no Python 3.9 to 3.12 that can make environments (on Debian, install python3-venv); give PYTHON=..."
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in 3.9 | 3.10)
    command -v c++ >/dev/null ||
        die "Python $version needs a C++ compiler to build fairseq: install one, or give PYTHON=..."
    ;;
esac
key=$({
    "$python" -c 'import os, sys; print(os.path.realpath(sys.executable), sys.version)'
    echo "$root"
    cat "$root/setup.py" "$here/environment.sh"
} | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])')
environment=${XDG_CACHE_HOME:-$HOME/.cache}/fairseq-distill/quickstart-$key

# Two runs at once must not make the same environment; closing the file unlocks it.
mkdir -p "$(dirname "$environment")"
exec 9>"$environment.lock"
if command -v flock >/dev/null; then flock 9; fi
if step "install: Python $version, fairseq and this checkout (several minutes)" "$environment/complete"; then
    run "$python" -m venv --clear "$environment"
    # fairseq 0.12.2, for Python before 3.11, needs omegaconf 2.0, whose metadata pip 24.1 and later refuse.
    run "$environment/bin/python" -m pip install --disable-pip-version-check --upgrade 'pip<24.1' setuptools wheel
    run "$environment/bin/python" -m pip install --disable-pip-version-check --editable "$root[fairseq]" espeakng-loader
    # Written last: an environment that was interrupted is made anew.
    touch "$environment/complete"
    started=$SECONDS
fi
exec 9>&-
source "$environment/bin/activate"

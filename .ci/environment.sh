# Sourced by .ci/run, tests/run.sh and the examples: finds Python interpreters, and makes environments with all extras of setup.py.
# There is one environment for each interpreter and set of requirements, in ${XDG_CACHE_HOME:-~/.cache}/fairseq-distill; clones
# share it, for it holds the requirements alone. The checkout itself is on PYTHONPATH.
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# find_python OLDEST NEWEST CANDIDATE...: print the first candidate that is a Python 3.OLDEST to 3.NEWEST and can do the work:
# make an environment and, before 3.11, where fairseq is built from source, compile against its headers.
# A name that cannot be run, like a pyenv shim of a version not in use, is passed over.
find_python() {
    local oldest=$1 newest=$2 candidate
    shift 2
    for candidate in "$@"; do
        "$candidate" 2>/dev/null - "$oldest" "$newest" <<'PYTHON' && return
import ensurepip, os, shutil, sys, sysconfig
ok = sys.version_info[0] == 3 and int(sys.argv[1]) <= sys.version_info[1] <= int(sys.argv[2])
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
ok = ok and (sys.version_info >= (3, 11) or os.path.exists(headers) and shutil.which("c++") is not None)
print(sys.executable) if ok else sys.exit(1)
PYTHON
    done
    return 1
}

pyenv=${PYENV_ROOT:-$HOME/.pyenv}/versions
find_newer_python() {
    find_python 11 12 python3 python3.12 python3.11 "$pyenv"/3.12.*/bin/python3 "$pyenv"/3.11.*/bin/python3
}
find_older_python() {
    find_python 9 10 python3 python3.10 python3.9 "$pyenv"/3.10.*/bin/python3 "$pyenv"/3.9.*/bin/python3
}

# Print the interpreter that PYTHON names, or else the best one that there is.
choose_python() {
    local needs="(on Debian, install python3-venv; before Python 3.11 also python3-dev and a C++ compiler)"
    if [ -n "${PYTHON:-}" ]; then
        find_python 9 12 "$PYTHON" && return
        echo "PYTHON=$PYTHON is no Python 3.9 to 3.12 that can make environments $needs" >&2
    else
        find_newer_python || find_older_python && return
        echo "no Python 3.9 to 3.12 that can make environments $needs; give PYTHON=..." >&2
    fi
    return 1
}

# install_requirements PYTHON ENVIRONMENT
install_requirements() {
    rm -rf "$2" &&
        "$1" -m venv "$2" &&
        # fairseq 0.12.2, for Python before 3.11, needs omegaconf 2.0, whose metadata pip 24.1 and later refuse
        "$2/bin/python" -m pip install --disable-pip-version-check --quiet --upgrade 'pip<24.1' setuptools wheel &&
        "$2/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$checkout[fairseq,plots,export,dev]" &&
        # the copy of the package that came with its requirements must not hide the checkout; its command stays
        "$2/bin/python" -m pip uninstall --quiet --yes fairseq-distill &&
        printf '#!%s\nimport sys\nfrom fairseq_distill.cli.main import main\nsys.exit(main())\n' "$2/bin/python" \
            >"$2/bin/fairseq-distill" &&
        chmod +x "$2/bin/fairseq-distill" &&
        # releases that do not fit each other show here, not as failures all over the tests
        "$2/bin/python" -W ignore -c 'import fairseq, torchaudio, matplotlib, pytest' &&
        # last: an environment without it was interrupted, and is made anew
        touch "$2/complete"
}

# use_environment PYTHON: make the environment of that interpreter unless it is there, and activate it.
use_environment() {
    local python=$1 version key
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    key=$({
        "$python" -c 'import os, sys; print(os.path.realpath(sys.executable), sys.version)'
        sed -n '/^PLAIN/,/^setup(/p' "$checkout/setup.py"
        declare -f install_requirements
    } | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])')
    environment=${XDG_CACHE_HOME:-$HOME/.cache}/fairseq-distill/python$version-$key
    mkdir -p "$(dirname "$environment")"
    # two runs at once must not make the same environment; closing the file unlocks it
    exec 9>"$environment.lock"
    if command -v flock >/dev/null; then flock 9; fi
    if [ ! -e "$environment/complete" ]; then
        echo "installing fairseq and what else is needed on Python $version into $environment (several minutes)"
        install_requirements "$python" "$environment" || { echo "$environment could not be made" >&2; return 1; }
    fi
    exec 9>&-
    source "$environment/bin/activate"
    export PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH}
}

# Sourced by every example, which sets WORK: the steps of an example, each shown, done once and kept whole, and the environment.
export HYDRA_FULL_ERROR=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}  # threads that wait by spinning are many times slower on busy cores
export PYTHONWARNINGS=ignore  # what fairseq, hydra and torch deprecate in each other; fairseq-distill warns in the log
PS4=' $ '  # bash repeats its first character in sourced files
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
started=$SECONDS

die() {
    echo "$(basename "$(cd "$(dirname "$0")" && pwd)"): $*" >&2
    exit 1
}

# step TITLE PRODUCT: whether the step is still to do; its last command makes PRODUCT, whole or not at all.
step() {
    if [ -e "$2" ]; then
        echo "== $1: skipped, $2 is there"
        return 1
    fi
    echo "== $1 (after $((SECONDS - started)) s)"
}

# Run a command and show it.
run() { (set -x && "$@"); }

# train COMMAND...: run a training and show it; of its log only losses and warnings (all of it is in WORK/.../hydra_train.log).
train() {
    local loss='[{ ]"(valid_)?loss": "([^"]*)"' update='num_updates": "([0-9]+)"'
    run "$@" | sed -unE \
        -e "s/.*\\]\\[(train_inner|valid)\\].*$loss.*$update.*/\\1: update \\4, loss \\3/p" \
        -e '/\]\[(WARNING|ERROR)\]/p'
}

# finish FOLDER PRODUCT: keep the last checkpoint of a training that has ended; one that was stopped leaves no PRODUCT.
finish() {
    cp "$1/checkpoint_last.pt" "$2.partial"
    mv "$2.partial" "$2"
}

# keep_settings SETTINGS FILE PRODUCT: stop if PRODUCT was made with other settings than these.
keep_settings() {
    if [ -e "$3" ] && [ "$(cat "$2")" != "$1" ]; then
        die "$3 was made with other settings ($(cat "$2")) than these ($1); give another WORK, or remove $(dirname "$2")"
    fi
    echo "$1" >"$2"
}

# measure RESULT COMMAND...: keep what a command prints in WORK/results/RESULT.
measure() {
    local result=$WORK/results/$1
    shift
    if step "measure: $(basename "$result")" "$result"; then
        mkdir -p "$WORK/results"
        run "$@" >"$result.$$"
        mv "$result.$$" "$result"
    fi
}

# Use the active environment if it has everything, else one of our own.
activate_environment() {
    if command -v fairseq-distill >/dev/null && command -v fairseq-hydra-train >/dev/null && python - <<'PYTHON'; then
import importlib.util, sys
needed = ("fairseq", "fairseq_distill", "espeakng_loader", "matplotlib", "scipy", "sklearn", "soundfile", "torchaudio")
sys.exit(any(importlib.util.find_spec(name) is None for name in needed))
PYTHON
        echo "== install: skipped, $(python -c 'import sys; print(sys.prefix)') has everything"
    else
        local python
        . "$root/.ci/environment.sh"
        python=$(choose_python)
        echo "== install: Python and fairseq (after $((SECONDS - started)) s)"
        use_environment "$python"
    fi
}

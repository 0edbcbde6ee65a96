# Sourced after steps.sh: what stands in for speech and a teacher where none is given. Two examples at once make them once.

# synthesise_speech FOLDER: train, valid and test with labels .keyword, .speaker, .text and .ltr
synthesise_speech() {
    take_lock "$1"
    if step "speech: synthesise words with espeak-ng" "$1"; then
        run python "$root/examples/quickstart/make_speech.py" "$1"
    fi
    exec 8>&-
}

# pretrain_teacher SPEECH FOLDER [OVERRIDES...]: a HuBERT of 4 layers of 192, FOLDER/teacher.pt
pretrain_teacher() {
    local speech=$1 folder=$2
    shift 2
    take_lock "$folder/teacher"
    keep_settings "speech $speech${*:+, overrides: $*}" "$folder/teacher.settings" "$folder/units"
    if step "units: k-means of cepstra" "$folder/units"; then
        run python "$root/examples/quickstart/make_units.py" "$speech" "$folder/units"
    fi
    if step "teacher: pretrain a tiny HuBERT with stock fairseq" "$folder/teacher.pt"; then
        train fairseq-hydra-train --config-dir "$root/examples/quickstart" --config-name teacher \
            hydra.run.dir="$folder/teacher" task.data="$speech" task.label_dir="$folder/units" \
            checkpoint.save_dir="$folder/teacher" "$@"
        finish "$folder/teacher" "$folder/teacher.pt"
    fi
    exec 8>&-
}

# take_lock PRODUCT: wait until nobody else makes it; closing file 8 gives it free
take_lock() {
    mkdir -p "$(dirname "$1")"
    exec 8>"$1.lock"
    if command -v flock >/dev/null; then flock 8; fi
}

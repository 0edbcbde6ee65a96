# Sourced by the examples on real speech: manifests of $DATA in $WORK/manifests, all corpora together and one by one.
if [ ! -e "$WORK/manifests" ]; then
    python3 "$DATA/manifests.py" "$WORK/manifests.partial/all" wakeword barista librispeech digits
    for corpus in wakeword digits librispeech; do
        python3 "$DATA/manifests.py" "$WORK/manifests.partial/$corpus" "$corpus"
    done
    mv "$WORK/manifests.partial" "$WORK/manifests"
fi

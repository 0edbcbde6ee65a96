#!/usr/bin/env bash
# Speech recognition by letters on real speech: digits and wake words, as words of letters, through stock fairseq's CTC. It shows
# that a student is fine-tuned and measured as its teacher is; sixteen phrases say nothing of running speech.
#
#   DATA=/folder/with/speech/and/teacher bash examples/letters/run.sh [NAME...]
#
# NAME       teacher, distilled, pruned or skill (default: all)
# DATA       holds manifests.py, speech/ and teacher/hubert_small.pt (default: ../shared/data beside the checkout)
# DISTILLED, PRUNED, SKILL  students, as in examples/multitask (defaults: as there)
# WORK       where everything goes (default: ./letters)
# UPDATES    length of each training (default: 400, about 5 minutes on one core)
#
# Run it again and it goes on with the first run that is not done. It ends with the table of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/letters}
UPDATES=${UPDATES:-400}

. "$here/../common.sh"
. "$here/../encoders.sh"

# manifests of both corpora, and their labels in the form of LibriSpeech's transcripts: S N O W B O Y |
data=$WORK/manifests/letters
if [ ! -e "$data" ]; then
    python3 "$DATA/manifests.py" "$data.partial" wakeword digits
    words=(ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE)
    for split in train valid test; do
        letters=$(tr 'a-z_' 'A-Z|' <"$data.partial/$split.keyword")
        for digit in {0..9}; do letters=${letters//$digit/${words[$digit]}}; done
        sed 's/./& /g; s/$/|/' <<<"$letters" >"$data.partial/$split.ltr"
    done
    tr ' ' '\n' <"$data.partial/train.ltr" | sort | uniq -c | sort -rn | awk '{print $2, $1}' >"$data.partial/dict.ltr.txt"
    mv "$data.partial" "$data"
fi

[ $# -gt 0 ] || set -- "${!encoders[@]}"
for name in "$@"; do
    [ -n "${encoders[$name]:-}" ] || { echo "$name is none of ${!encoders[*]}" >&2; exit 1; }
    train_once "$name" finetune ctc_letters model.w2v_path="${encoders[$name]}" task.data="$data" \
        model.apply_mask=false model.layerdrop=0 model.feature_grad_mult=1 "optimization.lr=[0.0005]" "optimization.update_freq=[1]" \
        optimization.max_update="$UPDATES" dataset.max_tokens=320000 common.log_interval=20 \
        checkpoint.save_interval_updates="$UPDATES"
    measure "$name.json" fairseq-distill evaluate "$WORK/$name.pt" --ctc --data "$data" --json --show 3
done
python3 "$here/print_table.py" "$WORK"

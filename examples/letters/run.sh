#!/usr/bin/env bash
# Speech recognition by letters, through stock fairseq's CTC. It shows that a student is fine-tuned and measured as its teacher is;
# the few phrases of the small corpora say nothing of running speech.
#
#   bash examples/letters/run.sh [NAME...]
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/letters/run.sh
#
# NAME       teacher, distilled, pruned or skill (default: all that there are)
# DATA       folder of {train,valid,test}.tsv, transcripts {train,valid,test}.ltr and dict.ltr.txt, or one where folder letters/
#            holds them: see examples/README.md (default: the speech that the quickstart synthesises)
# TEACHER    a pretrained checkpoint (default: the quickstart's tiny HuBERT)
# DISTILLED  a student of examples/real_speech (default: ./real_speech/wide.pt)
# PRUNED     one of examples/dphubert (default: ./dphubert/params75.stage2.pt)
# SKILL      one of examples/skill (default: ./dphubert/skill75.stage2.pt)
# WORK       where everything goes (default: ./letters)
# UPDATES    length of each training (default: 400, about 5 minutes on one core)
#
# Run it again and it goes on with the first run that is not done. With real speech it ends with the table of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/letters}
UPDATES=${UPDATES:-400}
. "$here/../common.sh"
. "$here/../students.sh"

data=$DATA
[ -f "$DATA/train.ltr" ] || data=$DATA/letters
for file in {train,valid,test}.ltr dict.ltr.txt; do
    [ -f "$data/$file" ] || die "no $file in DATA=$DATA or its folder letters; examples/README.md says where they come from"
done

[ $# -gt 0 ] || set -- "${!encoders[@]}"
for name in "$@"; do
    [ -n "${encoders[$name]:-}" ] || die "$name is none of ${!encoders[*]}"
    train_once "$name" finetune ctc_letters model.w2v_path="${encoders[$name]}" task.data="$data" \
        model.apply_mask=false model.layerdrop=0 model.feature_grad_mult=1 "optimization.lr=[0.0005]" "optimization.update_freq=[1]" \
        optimization.max_update="$UPDATES" dataset.max_tokens=320000 common.log_interval=20 \
        checkpoint.save_interval_updates="$UPDATES"
    measure "$name.json" fairseq-distill evaluate ctc "$WORK/$name.pt" --data "$data" --json --show 3
done
python "$here/print_table.py" "$WORK"

#!/usr/bin/env bash
# SKILL beside DPHuBERT on a real teacher and real speech: the teacher's layer clusters and how stable they are, then students
# of both recipes at three sparsities, equal in all but their targets, and how near they come to every layer of the teacher.
#
#   DATA=/folder/with/speech/and/teacher bash examples/skill/run.sh [clusters] [skill50] [params50] [skill75] [params75] [skill85] [params85]
#
# DATA     holds manifests.py, speech/ and teacher/hubert_small.pt (default: ../shared/data beside the checkout)
# WORK     where everything goes (default: ./dphubert, as examples/dphubert/run.sh, whose params75 is one of these students)
# STAGE1   updates of stage 1 (default: 400, about 10 minutes on two cores)
# STAGE2   updates of stage 2 (default: 200, about 3 minutes)
#
# Run it again and it goes on where it was. It ends with the tables of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/dphubert}
. "$here/../dphubert/compress.sh"
mkdir -p "$WORK/clusters"
groups=$WORK/clusters/1200s_seed0.json

# find_clusters SECONDS SEED: four clusters, as many targets as DPHuBERT has, from all frames of so much speech
find_clusters() {
    local file=$WORK/clusters/$1s_seed$2
    [ -e "$file.json" ] || fairseq-distill clusters "$teacher" "$WORK/manifests/all/train.tsv" --seconds "$1" --seed "$2" \
        --clusters 4 --share 1 --plot "$file.png" --out "$file.json" >"$file.txt"
}
compare_layers() {
    python3 "$here/measure_layers.py" "$1" "$teacher" "$WORK/manifests/all/train.tsv" "$WORK/manifests/all/valid.tsv"
}

find_clusters 1200 0
[ $# -gt 0 ] || set -- clusters skill50 params50 skill75 params75 skill85 params85
for name in "$@"; do
    sparsity=0.${name: -2}
    case $name in
        clusters)
            for seed in 0 1 2; do
                for seconds in 60 300 1200; do find_clusters "$seconds" "$seed"; done
            done ;;
        skill50 | skill75 | skill85) compress "$name" skill params "$sparsity" criterion.groups_file="$groups" ;;
        params50 | params75 | params85) compress "$name" dphubert params "$sparsity" ;;
        *) echo "$name is none of the runs that this file names at its top" >&2 && exit 1 ;;
    esac
    [ "$name" = clusters ] || measure "$name.layers.json" compare_layers "$WORK/$name.stage2.pt"
done
python3 "$here/print_table.py" "$WORK"

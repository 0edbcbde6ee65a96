#!/usr/bin/env bash
# DPHuBERT: distil and prune together, cut, distil again, evaluate. Twice: 75 % of the parameters go, and half of the MACs.
#
#   bash examples/dphubert/run.sh [params75] [macs50]
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/dphubert/run.sh
#
# DATA     folder of train.tsv, valid.tsv and test.tsv, with labels .keyword or .speaker to probe, or of one such folder for each
#          corpus: see examples/README.md (default: the speech that the quickstart synthesises)
# TEACHER  a pretrained checkpoint (default: the quickstart's tiny HuBERT)
# WORK     where everything goes (default: ./dphubert)
# UPDATES  length of stage 1 (default: 400, about 10 minutes on two cores); stage 2 has half of it, or STAGE2
#
# Run it again and it goes on where it was. With real speech it ends with the tables of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/dphubert}
. "$here/compress.sh"

[ $# -gt 0 ] || set -- params75 macs50
for name in "$@"; do
    case $name in
        params75) compress params75 dphubert params 0.75 ;;
        macs50) compress macs50 dphubert macs 0.5 ;;
        *) die "$name is neither params75 nor macs50" ;;
    esac
done
python "$here/print_table.py" "$WORK"

# Sourced by the examples that fine-tune, after common.sh: the teacher, and a student of each kind.
declare -A encoders=(
    [teacher]=$teacher [distilled]=${DISTILLED:-$PWD/real_speech/wide.pt}
    [pruned]=${PRUNED:-$PWD/dphubert/params75.stage2.pt} [skill]=${SKILL:-$PWD/dphubert/skill75.stage2.pt}
)

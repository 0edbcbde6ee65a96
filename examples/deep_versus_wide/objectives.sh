# Sourced by run.sh: every objective at one shape, whose layers_8x160 is the one to compare with: every layer of the teacher from
# the student's layer at its depth, L1 - log sigmoid cosine, mean over layers. Here is what each changes in it.
objectives=(linear_heads hints fithubert masking armhubert attention_maps star dicehubert units_beside started average heads)
no_distances=(criterion.l1=0 criterion.log_sigmoid_cosine=0)
hints=("${no_distances[@]}" criterion.mse=1 +criterion.hint=0.1 +criterion.reduce_groups=sum)
masking=("${hints[@]}" +criterion.masking=true +model.mask_prob=0.8 +model.mask_length=10)

# layer_to_layer NAME OVERRIDES...
layer_to_layer() {
    local name=$1
    shift
    train "$name" deep_12x384 task.teacher="$teacher" dataset.batch_size=null $(shape "$one_shape") "$@"
}
make_units() {
    [ -e "$WORK/units/units.json" ] || fairseq-distill units "$teacher" "$WORK"/manifests/all/{train,valid}.tsv --layer 9 \
        --clusters 100 --out "$WORK/units"
}

train_objective() {
    case $1 in
        linear_heads)  # from the last layer, as last_8x160, but a Linear for each of the three layers of the teacher
            train "$1" wide_3x768 task.teacher="$teacher" dataset.batch_size=null model.like_init=front \
                model.prediction_head=linear $(shape "$one_shape") ;;
        hints) layer_to_layer "$1" "${hints[@]}" ;;
        fithubert) layer_to_layer "$1" "${hints[@]}" +model.time_reduction=2 ;;
        masking) layer_to_layer "$1" "${masking[@]}" ;;
        armhubert) layer_to_layer "$1" "${masking[@]}" "+model.reuse_attention=[2,4,6,8]" ;;
        attention_maps) layer_to_layer "$1" +criterion.attention_maps=0.1 ;;
        star) layer_to_layer "$1" "${no_distances[@]}" model.prediction_head=none +criterion.temporal_relations=1 +criterion.layer_relations=1 ;;
        dicehubert)  # the stock task; short waves too, for the digits are
            make_units
            train "$1" dicehubert task.label_dir="$WORK/units" task.min_sample_size=null +model.init="$teacher" \
                +model.like_init=front $(shape "$one_shape") ;;
        units_beside)
            make_units
            layer_to_layer "$1" +criterion.masked_prediction=0.1 +task.label_dir="$WORK/units" ;;
        started)  # the teacher's projection is cut too
            layer_to_layer "$1" +model.init_choice=every +model.init_width=activations +model.project_features=true ;;
        average) layer_to_layer "$1" task.teacher="'$teacher,$SECOND'" ;;
        heads) layer_to_layer "$1" task.teacher="'$teacher,$SECOND'" +task.combine_teachers=heads ;;
        *) echo "$1 is none of the runs that run.sh names at its top" >&2 && exit 1 ;;
    esac
}

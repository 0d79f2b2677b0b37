#!/bin/sh
# Train the miniature LVLM from nothing: its world, the vision tower, the language model, then LLaVA's two stages.
#
#     sh scripts/train_miniature.sh [arguments of train/sft.py, for LLaVA's stages]
#
# The same command goes on with what was killed and leaves what is finished. SEED draws the language model, the
# projector and the order of the data; world and tower are the same for all. Hours on a CPU, the tower one of them;
# TOWER=models/miniature takes the bundled one's.
set -eu
cd "$(dirname "$0")/.."

SEED=${SEED:-0}
POSITION_BALANCE=${POSITION_BALANCE:-false}    # true: trained with BaPA from LLaVA's first stage on
DATA=${DATA:-results/miniature/data}           # the world; drawn if it is not there
CHECKPOINTS=${CHECKPOINTS:-checkpoints/miniature}
TOWER=${TOWER:-}                               # a tower, or a LLaVA that has one; none: it is trained, too

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

case $POSITION_BALANCE in
    true) arm=on ;;
    false) arm=off ;;
    *) echo "error: POSITION_BALANCE=$POSITION_BALANCE: choose true or false" >&2 && exit 2 ;;
esac
language_model=$CHECKPOINTS/language_model-$SEED
pretrained=$CHECKPOINTS/pretrain-$SEED-$arm
tuned=$CHECKPOINTS/finetune-$SEED-$arm

[ -f "$DATA/manifest.json" ] || python data/build_miniature.py --output_dir "$DATA"
[ -n "$TOWER" ] || python train/pretrain_tower.py --source "$DATA/pictures/train" --output_dir "$CHECKPOINTS/tower"
python train/pretrain_language_model.py --data "$DATA/scenes.jsonl" --output_dir "$language_model" --seed "$SEED"

# stage NAME OUTPUT_DIR [arguments of train/sft.py]
stage() {
    recipe=configs/train/miniature/$1.yaml
    output=$2
    shift 2
    python train/sft.py --config "$recipe" --image_folder "$DATA/images" --output_dir "$output" --seed "$SEED" \
        --position_balance "$POSITION_BALANCE" --resume auto "$@"
}
stage pretrain "$pretrained" --data "$DATA/captions.json" --vision_tower "${TOWER:-$CHECKPOINTS/tower}" \
    --language_model "$language_model" "$@"
stage finetune "$tuned" --data "$DATA/instructions.json" --model_path "$pretrained" "$@"
echo "The model: $tuned; loss curves: $language_model/loss.png $pretrained/loss.png $tuned/loss.png"

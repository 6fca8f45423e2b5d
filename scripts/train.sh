#!/usr/bin/env bash
# Train a classifier. Edit the settings, then: bash scripts/train.sh [more flags of run_classifier.py]
# Each setting can also come from outside: MODEL=hfl/chinese-roberta-wwm-ext bash scripts/train.sh
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-models/bertorch-tiny-zh}      # a model directory, which says its type itself, or a name on the Hugging Face hub
FROM_TF=${FROM_TF:-}                         # 1 for a TensorFlow checkpoint
DATA=${DATA:-data/reviews}                   # the directory of the four files
TRAIN_FILE=${TRAIN_FILE:-$DATA/train.tsv}
DEV_FILE=${DEV_FILE:-$DATA/dev.tsv}
TEST_FILE=${TEST_FILE:-$DATA/test.tsv}
LABEL_FILE=${LABEL_FILE:-$DATA/labels.txt}
TEXT_PAIR=${TEXT_PAIR:-}                     # 1 for rows of two texts
DO_TEST=${DO_TEST-1}                         # empty: TEST_FILE is not predicted after training
SAVED_DIR=${SAVED_DIR:-checkpoint}
LEARNING_RATE=${LEARNING_RATE:-3e-4}         # for the small encoder; 1e-5 to 5e-5 for one of base size
EPOCHS=${EPOCHS:-20}                         # 3 for a model of base size
TRAIN_STEPS=${TRAIN_STEPS:-}                 # updates in all; where it is set, EPOCHS does not count
SAVE_STEPS=${SAVE_STEPS:-50}
EVAL_STEPS=${EVAL_STEPS:-$SAVE_STEPS}        # updates between two evaluations
BATCH_SIZE=${BATCH_SIZE:-32}                 # for each GPU
MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-128}
GPUS=${GPUS:-$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)}   # 0 trains on the CPU

torchrun --standalone --nproc_per_node="$((GPUS > 0 ? GPUS : 1))" run_classifier.py \
    --pretrained_model_name_or_path "$MODEL" ${FROM_TF:+--from_tf} \
    --train_data_file "$TRAIN_FILE" ${TEXT_PAIR:+--is_text_pair} \
    --dev_data_file "$DEV_FILE" \
    ${DO_TEST:+--test_data_file "$TEST_FILE" --do_test} \
    --label_file "$LABEL_FILE" \
    --saved_dir "$SAVED_DIR" \
    --learning_rate "$LEARNING_RATE" \
    --warmup_proportion 0.1 \
    --epochs "$EPOCHS" ${TRAIN_STEPS:+--max_steps "$TRAIN_STEPS"} \
    --batch_size "$BATCH_SIZE" \
    --max_seq_length "$MAX_SEQ_LENGTH" \
    --save_steps "$SAVE_STEPS" \
    --eval_steps "$EVAL_STEPS" \
    --save_best_model \
    "$@"

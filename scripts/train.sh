#!/usr/bin/env bash
# Train a classifier. Edit the settings, then: bash scripts/train.sh [more flags of run_classifier.py]
# Each setting can also come from outside: MODEL=hfl/chinese-roberta-wwm-ext bash scripts/train.sh
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-models/bertorch-tiny-zh}      # a model directory, or a name on the Hugging Face hub
DATA=${DATA:-data/reviews}                   # holds train.tsv, dev.tsv, test.tsv and labels.txt
SAVED_DIR=${SAVED_DIR:-checkpoint}
LEARNING_RATE=${LEARNING_RATE:-3e-4}         # for the small encoder; 2e-5 to 5e-5 for one of base size
EPOCHS=${EPOCHS:-20}                         # 3 for a model of base size
BATCH_SIZE=${BATCH_SIZE:-32}                 # for each GPU
MAX_SEQ_LENGTH=${MAX_SEQ_LENGTH:-128}
SAVE_STEPS=${SAVE_STEPS:-50}
GPUS=${GPUS:-$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)}   # 0 trains on the CPU

torchrun --standalone --nproc_per_node="$((GPUS > 0 ? GPUS : 1))" run_classifier.py \
    --pretrained_model_name_or_path "$MODEL" \
    --train_data_file "$DATA/train.tsv" \
    --dev_data_file "$DATA/dev.tsv" \
    --test_data_file "$DATA/test.tsv" \
    --do_test \
    --label_file "$DATA/labels.txt" \
    --saved_dir "$SAVED_DIR" \
    --learning_rate "$LEARNING_RATE" \
    --warmup_proportion 0.1 \
    --epochs "$EPOCHS" \
    --batch_size "$BATCH_SIZE" \
    --max_seq_length "$MAX_SEQ_LENGTH" \
    --save_steps "$SAVE_STEPS" \
    --save_best_model \
    "$@"

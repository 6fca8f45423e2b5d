#!/usr/bin/env bash
# All that only a GPU can show, in about ten minutes: bash benchmarks/gpu_check.sh [folder for what it prints]
# It needs a torch for CUDA, `pip install -e .`, and for the Trainer's side accelerate. Without a GPU it ends at once.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-${OUT:-runs/gpu_check}}
mkdir -p "$OUT"
export PYTHONPATH=. HF_HUB_OFFLINE=1
python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no GPU that torch can use")'
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$OUT/gpu.txt" || true

# Right first: every backend against the CPU, fp32 and bf16; a training step without waiting for the host.
python -m pytest -q tests/encoder/test_cuda.py tests/training/test_cuda.py 2>&1 | tee "$OUT/tests.txt"

# A short real training: the loss falls, and the development score is that of the CPU.
for device in cpu cuda; do
    python run_classifier.py --train_data_file data/reviews/train.tsv --dev_data_file data/reviews/dev.tsv \
        --label_file data/reviews/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --learning_rate 5e-4 \
        --epochs 3 --seeds 1 2 3 --device $device --overwrite --saved_dir "$OUT/reviews-$device" 2>&1 \
        | tee "$OUT/reviews-$device.txt" | tail -n 3
done

# Speed, beside the Trainer with its best settings.
speed() { timeout 150 python benchmarks/train_speed.py --device cuda --threads 8 --shape base --precision bf16 --pairs 5 "$@"; }
for batch_size in 32 256; do
    speed --batch_size $batch_size --steps 10 --tasks chnsenticorp-128 chnsenticorp-512 \
        --sides bertorch bertorch-grouped trainer-tuned 2>"$OUT/train-$batch_size.log" | tee "$OUT/train-$batch_size.md"
done
speed --batch_size 256 --steps 10 --tasks chnsenticorp-128 --sides bertorch bertorch-compiled \
    2>"$OUT/compile.log" | tee "$OUT/compile.md"
for batch_size in 32 256; do
    timeout 60 python benchmarks/encode_speed.py --device cuda --threads 8 --shape base --precision bf16 \
        --batch_size $batch_size 2>"$OUT/encode-$batch_size.log" | tee "$OUT/encode-$batch_size.md"
done

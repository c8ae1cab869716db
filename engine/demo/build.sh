#!/bin/sh
# Rebuilds gatehouse-demo.gguf from nothing: corpus, tokenizer, training, export, evaluation.
# Needs gcc, libopenblas-dev and Debian's python3-numpy.
#   engine/demo/build.sh [SCRATCH_DIR] [OUTPUT.gguf]
# STEPS=20000 trains that many steps in one run instead of repeating the history of the committed file.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=${1:-/tmp/demo-model}
output=${2:-$here/gatehouse-demo.gguf}
mkdir -p "$scratch"
export OPENBLAS_NUM_THREADS=1
# Debian's OpenBLAS does not know newer processors and falls back to kernels of half the speed.
if grep -q avx512bw /proc/cpuinfo; then
    export OPENBLAS_CORETYPE=SKYLAKEX
fi

/usr/bin/python3 "$here/corpus.py" "$scratch" --conversations 500000 --seed 1
/usr/bin/python3 "$here/corpus.py" "$scratch" --check
/usr/bin/python3 "$here/tokenizer.py" train "$scratch/train.jsonl" "$scratch/tokenizer.json"
for split in train val; do
    /usr/bin/python3 "$here/tokenizer.py" encode "$scratch/$split.jsonl" "$scratch/tokenizer.json" "$scratch/$split"
done
# -ffast-math lets the compiler vectorise expf; gnu17 for posix_memalign and clock_gettime.
gcc -std=gnu17 -O3 -march=native -ffast-math -Wall -Wextra -o "$scratch/train" "$here/train.c" -lopenblas -lpthread -lm
"$scratch/train" "$scratch" "$scratch/check.ckpt" --check
rm -f "$scratch/model.ckpt"
learn() {
    nice -n 5 "$scratch/train" "$scratch" "$scratch/model.ckpt" --seed 1 "$@"
}
if [ -n "${STEPS:-}" ]; then
    learn --steps "$STEPS"
else
    # The committed file was trained on a busy machine, and its schedule was shortened on the way.
    learn --steps 20000 --stop 3500
    learn --steps 15000 --stop 4500
    learn --steps 7600
    learn --steps 8800 --lr 0.0018
fi
/usr/bin/python3 "$here/export.py" "$scratch/model.ckpt" "$scratch/tokenizer.json" "$output"
/usr/bin/python3 "$here/evaluate.py" "$output"

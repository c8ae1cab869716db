#!/usr/bin/env bash
# run.sh AREA BUILD_FOLDER: what `./dev bench [AREA]` does once everything is built. AREA is gateway, engine, guard, audit or all.
# Prints a header and the programs' tables, and keeps both in build/bench/AREA.txt (and figures in build/bench/gateway.json).
# Nothing here fails because of a figure.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
area=${1:?area}
build=$(readlink -f "${2:?build folder}")
out=build/bench
shared=../shared
mkdir -p "$out"
export GH_SOURCE_ROOT=$PWD GH_BUILD_ROOT=$build

header() {
    local cores load
    cores=$(nproc)
    load=$(cut -d' ' -f1 /proc/loadavg)
    printf '== %s: %s\n' "$1" "$(date -u '+%Y-%m-%d %H:%M UTC')"
    printf '   %s, %s cores, Linux %s, load %s, %s MB free\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$cores" \
        "$(uname -r)" "$(cut -d' ' -f1-3 /proc/loadavg)" "$(free -m | awk '/^Mem/ { print $7 }')"
    printf '   revision %s%s, %s build\n' "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" \
        "$(git diff --quiet HEAD -- base engine policy audit gateway 2>/dev/null || echo ' with changes')" "$(basename "$build")"
    if awk "BEGIN { exit !($load > $cores * 0.25) }"; then
        printf '   WARNING: the machine is busy. Times on the clock prove nothing now; compare processor time and ratios of one run.\n'
    fi
    printf '\n'
}

bench_gateway() {
    /usr/bin/python3 tests/bench/bench_gateway.py "$build" "$out/gateway.json"
    "$build/tests/bench/bench_token_cache"
    /usr/bin/python3 tests/bench/bench_sso.py "$build" "$out/sso.json"
    /usr/bin/python3 tests/bench/bench_scim.py "$build" "$out/scim.json"
    if command -v wrk >/dev/null && command -v h2load >/dev/null; then
        printf '\nThe server alone (no call behind it), requests per second\n'
        PATH=$PATH:/usr/sbin tests/bench/bench_server.sh "$build" 2
    fi
}

# A model of random weights: its speed and memory are a real one's, its text is noise.
random_model() {
    local file=$out/random-0.5b-q4_k_m.gguf
    if [ ! -f "$file" ] && [ -f "$shared/refmodels/make_bench_model.py" ]; then
        /usr/bin/python3 "$shared/refmodels/make_bench_model.py" "$file.new" --shape 0.5b --type q4_k_m >&2 && mv "$file.new" "$file"
    fi
    [ ! -f "$file" ] || echo "$file"
}

# The floor: every token reads all weights once. A model that fits into the caches may pass it; so may processor time when other programs
# held the memory while the floor was measured.
bench_engine() {
    local model threads floor rates
    for model in engine/demo/gatehouse-demo.gguf $(random_model); do
        printf '%s, %s bytes\n' "$(basename "$model")" "$(stat -c %s "$model")"
        for threads in 1 "$(nproc)"; do
            floor=$("$build/tests/bench/engine_memory" "$threads" "$model")
            printf '  floor, %s\n' "$(echo "$floor" | tr '\n' ';' | sed 's/;$//; s/;/; /g')"
            # shellcheck disable=SC2046
            rates=$("$build/engine/gatehouse-model" bench "$model" --threads "$threads" $([ "$model" = engine/demo/gatehouse-demo.gguf ] ||
                echo --pp 256 --tg 32))
            # the best run counts: what else runs here can only make one slower
            printf '%s\n' "$rates" | sed 's/^/  /'
            printf '%s\n' "$rates" | awk -v top="$(echo "$floor" | sed -n 's/.*at most \([0-9.]*\) tokens.*/\1/p')" -v n="$threads" '
                /^pp/ { for (i = 1; i <= NF; i++) if ($i ~ /^tg/ && $(i + 1) > best) best = $(i + 1)
                        gsub(/[():]/, ""); cpu = $NF * n > cpu ? $NF * n : cpu }
                END { printf "  best answer %.1f t/s: %.2f of the floor (%.2f by processor time)\n\n", best, best / top, cpu / top }'
        done
    done
    for threads in 1 "$(nproc)"; do
        "$build/tests/bench/engine_pack" "$threads"
    done
}

bench_guard() { "$build/tests/bench/bench_guard" 4; }
bench_audit() { GH_BENCH_SECONDS=${GH_BENCH_SECONDS:-2} "$build/tests/bench/bench_audit" "$out"; }

case $area in
all) areas="gateway engine guard audit" ;;
gateway | engine | guard | audit) areas=$area ;;
*)
    echo "run.sh: no such area: $area" >&2
    exit 2
    ;;
esac
for one in $areas; do
    { header "$one" && "bench_$one"; } 2>&1 | tee "$out/$one.txt"
    printf 'kept in %s\n\n' "$out/$one.txt"
done

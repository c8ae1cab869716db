/* How fast weights are rearranged for a CUDA device, beside a plain copy of the same bytes by the same threads, in turn: what the host needs
 * before the bus does.   usage: engine_pack [THREADS] */
#include "base/clock.h"
#include "engine/cuda/pack.h"
#include "engine/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BYTES       ((size_t)192 << 20) /* past any cache */
#define STAGE_BYTES ((size_t)2 << 20)   /* as device.cu: two, in turn */
#define PACK_BYTES  (64u << 10)
#define COLS        4096u
#define ROUNDS      5

struct job {
    const struct eng_weight_data *data;
    uint64_t first;
    uint32_t unit_bytes;
    uint8_t *out;
    bool plain;
};

static void work(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const struct job *job = arg;
    uint8_t *out = job->out + (size_t)begin * job->unit_bytes;

    (void)thread;
    if (job->plain)
        memcpy(out, (const uint8_t *)job->data->data + (job->first + begin) * job->unit_bytes,
               (size_t)(end - begin) * job->unit_bytes);
    else
        gpu_weight_pack(job->data, job->first + begin, end - begin, out);
}

static uint64_t processor_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* GB/s of what the device gets: by the clock, by processor time. */
struct rate {
    double clock, processor;
};

static struct rate run(struct eng_pool *pool, const struct eng_weight_data *data, uint8_t *stages, bool plain)
{
    struct gpu_units units = gpu_weight_units(data);
    uint64_t most = STAGE_BYTES / units.bytes, begin = base_mono_ns(), used = processor_ns();
    unsigned turn = 0;

    for (uint64_t first = 0, n; first < units.n; first += n) {
        struct job job = {data, first, units.bytes, stages + turn++ % 2 * STAGE_BYTES, plain};

        n = units.n - first < most ? units.n - first : most;
        eng_pool_run(pool, work, &job, (uint32_t)n, PACK_BYTES / units.bytes);
    }
    return (struct rate){(double)(units.n * units.bytes) / (double)(base_mono_ns() - begin),
                         (double)(units.n * units.bytes) / (double)(processor_ns() - used)};
}

static void keep_best(struct rate *best, struct rate r)
{
    best->clock = r.clock > best->clock ? r.clock : best->clock;
    best->processor = r.processor > best->processor ? r.processor : best->processor;
}

int main(int argc, char **argv)
{
    static const enum eng_type types[] = {ENG_F32,  ENG_BF16, ENG_Q8_0, ENG_Q4_0, ENG_Q4_1,
                                          ENG_Q5_0, ENG_Q5_1, ENG_Q4_K, ENG_Q5_K, ENG_Q6_K};
    unsigned n_threads = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    struct eng_pool *pool = eng_pool_new(n_threads);
    uint8_t *source = aligned_alloc(4096, BYTES + (BYTES >> 4)),
            *stages = aligned_alloc(4096, 2 * STAGE_BYTES);

    if (pool == NULL || source == NULL || stages == NULL) {
        fprintf(stderr, "usage: engine_pack [THREADS]\n");
        return 2;
    }
    for (size_t i = 0; i < BYTES + (BYTES >> 4); i++)
        source[i] = (uint8_t)(i * 2654435761u >> 13);
    memset(stages, 1, 2 * STAGE_BYTES);
    printf("weights for a GPU, %u thread%s: rearranged, of what memcpy copies\n", n_threads,
           n_threads == 1 ? "" : "s");
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct eng_weight_data data = {.type = types[i], .cols = COLS, .data = source};
        struct rate packed = {0, 0}, copied = {0, 0};

        data.rows = (uint32_t)(BYTES / eng_row_bytes(types[i], COLS)) / MM_ROWS * MM_ROWS;
        for (int round = 0; round < ROUNDS; round++) {
            keep_best(&copied, run(pool, &data, stages, true));
            keep_best(&packed, run(pool, &data, stages, false));
        }
        printf("  %-5s %5.1f of %5.1f GB/s: %.2f; per second of processor time %5.1f of %5.1f: %.2f\n",
               eng_type_info(types[i])->name, packed.clock, copied.clock, packed.clock / copied.clock,
               packed.processor, copied.processor, packed.processor / copied.processor);
    }
    eng_pool_free(pool);
    free(source);
    free(stages);
    return 0;
}

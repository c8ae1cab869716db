/* Read bandwidth of this machine: the floor of an answer's speed. Every token reads all weights once, so
 * tokens per second <= bandwidth / bytes per token.   usage: engine_memory [THREADS [MODEL.gguf]] */
#include "base/clock.h"
#include "engine/model.h"
#include "engine/pool.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES (512u << 20)
#define PIECE (1u << 20)

static _Atomic uint64_t checksum;

static void read_pieces(void *arg, unsigned thread, uint32_t begin, uint32_t end)
{
    const uint64_t *data = arg;
    uint64_t a = 0, b = 0, c = 0, d = 0;

    for (size_t i = (size_t)begin * PIECE / 8; i < (size_t)end * PIECE / 8; i += 4) {
        a += data[i];
        b += data[i + 1];
        c += data[i + 2];
        d += data[i + 3];
    }
    atomic_fetch_add(&checksum, a + b + c + d);
}

/* Bytes of weights that one token reads: all but the embedding table, unless the output shares it. */
static uint64_t token_bytes(const char *path)
{
    struct eng_gguf *gguf;
    struct eng_model *model;
    struct base_err err;
    uint64_t bytes = 0;

    if (eng_gguf_open(&gguf, path, &err) != BASE_OK || eng_model_load(&model, gguf, &err) != BASE_OK) {
        fprintf(stderr, "%s\n", err.detail);
        exit(1);
    }
    for (size_t i = 0; i < eng_gguf_n_tensors(gguf); i++)
        bytes += eng_gguf_tensor_at(gguf, i)->n_bytes;
    if (!model->config.tied_output)
        bytes -= model->token_embd->n_bytes;
    eng_model_free(model);
    return bytes;
}

int main(int argc, char **argv)
{
    unsigned n_threads = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    struct eng_pool *pool = eng_pool_new(n_threads);
    uint64_t *data = aligned_alloc(4096, BYTES);
    double best = 0;

    if (pool == NULL || data == NULL) {
        fprintf(stderr, "usage: engine_memory [THREADS [MODEL.gguf]]\n");
        return 2;
    }
    memset(data, 1, BYTES);
    for (int round = 0; round < 8; round++) {
        uint64_t begin = base_mono_ns();
        double rate;

        eng_pool_run(pool, read_pieces, data, BYTES / PIECE, 1);
        rate = (double)BYTES / (double)(base_mono_ns() - begin);
        best = rate > best ? rate : best;
    }
    printf("%u thread%s read %.1f GB/s\n", n_threads, n_threads == 1 ? "" : "s", best);
    if (argc > 2) {
        uint64_t bytes = token_bytes(argv[2]);

        printf("%.1f MB of weights a token: at most %.1f tokens a second for one answer\n",
               (double)bytes / 1e6, best * 1e9 / (double)bytes);
    }
    eng_pool_free(pool);
    free(data);
    return 0;
}

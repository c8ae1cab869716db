/* GGUF files from nowhere: parse, check the model, and run one token through what passes (small ones only). */
#include "base/mem.h"
#include "engine/graph_llama.h"
#include "engine/kvcache.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PARAMS_MAX 200000u

static void one_token(const struct eng_model *model)
{
    const struct eng_ops *ops = eng_ops_cpu(NULL);
    struct eng_graph_options options = {
        .ops = ops,
        .device = {.n_threads = 1, .max_tokens = 2, .max_context = 16, .max_sequences = 1, .max_logits = 1}};
    struct eng_kv_shape shape = eng_graph_kv_shape(model);
    const int32_t ids[2] = {0, (int32_t)model->config.n_vocab - 1};
    const uint32_t positions[2] = {0, 1}, sequences[2] = {0, 0}, rows[1] = {1};
    uint32_t pages[1];
    struct eng_kv_seq seq = {.pages = pages};
    struct eng_graph *graph = NULL;
    struct eng_kvcache *kv = NULL;
    struct eng_step step = {2, ids, positions, sequences, 1, 1, pages, 1, rows};
    auto_free float *logits = base_alloc(model->config.n_vocab * sizeof(float));
    struct base_err err;

    shape.n_pages = 1;
    if (eng_graph_new(&graph, model, &options, &err) == BASE_OK &&
        eng_kvcache_new(&kv, ops, eng_graph_device(graph), &shape, &err) == BASE_OK) {
        if (!eng_kvcache_reserve(kv, &seq, 2, 0))
            abort();
        eng_kvcache_extend(kv, &seq, 2);
        if (eng_graph_step(graph, eng_kvcache_store(kv), &step, NULL, logits, NULL, &err) != BASE_OK)
            abort();
        eng_kvcache_release(kv, &seq);
    }
    eng_kvcache_free(kv);
    eng_graph_free(graph);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct eng_gguf *gguf;
    struct eng_model *model;
    struct base_err err;
    uint8_t *copy = aligned_alloc(64, (size + 64) / 64 * 64);

    /* Aligned as a mapping is. */
    if (copy == NULL)
        return 0;
    memcpy(copy, data, size);
    if (eng_gguf_parse(&gguf, copy, size, &err) == BASE_OK) {
        if (eng_model_load(&model, gguf, &err) != BASE_OK)
            eng_gguf_free(gguf);
        else {
            if (model->n_params <= PARAMS_MAX &&
                (uint64_t)model->config.n_kv_heads * model->config.head_dim < 65536)
                one_token(model);
            eng_model_free(model);
        }
    }
    free(copy);
    return 0;
}

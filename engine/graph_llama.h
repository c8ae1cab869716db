/* The forward pass of the llama family (also Mistral, qwen2 and qwen3) over the op table. Private to engine/.
 *
 * Who:  the engine's thread alone.
 * Promises: a step's logits do not depend on which other tokens are in the step.
 */
#ifndef ENGINE_GRAPH_LLAMA_H
#define ENGINE_GRAPH_LLAMA_H

#include "engine/kernels.h"
#include "engine/model.h"

struct eng_graph;

struct eng_graph_options {
    const struct eng_ops *ops;
    /* what follows from the model (n_vocab, max_rows, ...) is filled in here */
    struct eng_device_options device;
};

/* Device memory of weights, buffers and the device's own; all but the KV pages. Reads no tensor. */
uint64_t eng_graph_bytes(const struct eng_model *model, const struct eng_graph_options *options);

/* Opens the device and copies the model's weights to it; `model` must outlive the graph, its file need not stay open. */
enum base_code eng_graph_new(struct eng_graph **ret_graph, const struct eng_model *model,
                             const struct eng_graph_options *options, struct base_err *err);
void eng_graph_free(struct eng_graph *graph); /* NULL is allowed; the KV store must be freed before */

struct eng_device *eng_graph_device(struct eng_graph *graph);
const struct eng_ops *eng_graph_ops(const struct eng_graph *graph);
/* The model's KV shape; n_pages and type are the caller's to fill. */
struct eng_kv_shape eng_graph_kv_shape(const struct eng_model *model);

/* Runs the step's tokens through all layers, writes their keys and values, and gives of the step's logit rows what is asked for:
 * what `choices` [n_logits] choose in ret_chosen [n_logits], and/or logits [n_logits, n_vocab] in ret_logits, which wants choices
 * NULL, since choosing changes them. */
enum base_code eng_graph_step(struct eng_graph *graph, struct eng_kv_store *kv, const struct eng_step *step,
                              const struct eng_choice *choices, float *ret_logits,
                              struct eng_chosen *ret_chosen, struct base_err *err);

#endif

/* The forward pass of the llama family (also Mistral and qwen2) over the op table. Private to engine/.
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
    struct eng_device_options device;
};

/* Opens the device and copies the model's weights to it; `model` must outlive the graph, its file need not stay open. */
enum base_code eng_graph_new(struct eng_graph **ret_graph, const struct eng_model *model,
                             const struct eng_graph_options *options, struct base_err *err);
void eng_graph_free(struct eng_graph *graph); /* NULL is allowed; the KV store must be freed before */

struct eng_device *eng_graph_device(struct eng_graph *graph);
/* The model's KV shape; n_pages and type are the caller's to fill. */
struct eng_kv_shape eng_graph_kv_shape(const struct eng_model *model);

/* Runs the step's tokens through all layers, writes their keys and values, and gives logits [n_logits, n_vocab] of the step's
 * logit rows. ret_logits NULL: they stay on the device. */
enum base_code eng_graph_step(struct eng_graph *graph, struct eng_kv_store *kv, const struct eng_step *step,
                              float *ret_logits, struct base_err *err);

#endif

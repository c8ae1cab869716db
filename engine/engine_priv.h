/* Engine internals that tests and the command line reach past engine.h. Private to engine/ and its tests. */
#ifndef ENGINE_ENGINE_PRIV_H
#define ENGINE_ENGINE_PRIV_H

#include "engine/engine.h"
#include "engine/plugin.h"
#include "engine/graph_llama.h"
#include "engine/kvcache.h"
#include "engine/model.h"
#include "engine/scheduler.h"
#include "engine/template.h"
#include "engine/tokenizer.h"

#define ENG_STEP_TOKENS_MAX 256u  /* tokens of one step on the CPU */
#define ENG_STEP_TOKENS_GPU 2048u /* enough of them to be bound by arithmetic */

/* What operators need not choose. Zeroed is the default. */
struct eng_tuning {
    const char *kernels;  /* see eng_ops_cpu; given, and no device: the CPU */
    bool exact_kv;        /* keys and values in F32 instead of F16 */
    uint32_t step_tokens; /* 0: ENG_STEP_TOKENS_MAX */
};

struct eng {
    struct eng_options options; /* defaults filled in; model_path is not kept */
    struct eng_model *model;
    struct eng_tokenizer *tok;
    struct eng_template *tmpl; /* NULL: the file has none */
    struct eng_graph *graph;
    struct eng_kvcache *kv;
    struct eng_sched *sched;
    struct eng_info info;
    const struct eng_plugin *plugin; /* of its device; NULL: the CPU */
    unsigned device_index;
};

enum base_code eng_open_tuned(struct eng **ret_eng, const struct eng_options *options,
                              const struct eng_tuning *tuning, struct base_err *err);

struct eng_prompt {
    int32_t *ids;
    uint32_t n;
    bool skip_space; /* the answer's first blank belongs to the tokenizer, not to the text */
};

/* Tokens as given; ids are checked against the vocabulary. */
enum base_code eng_prompt_ids(struct eng *eng, const int32_t *ids, uint32_t n, struct eng_prompt **ret_prompt,
                              struct base_err *err);

#endif

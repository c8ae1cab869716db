/* Scheduler: many requests, one batch. Private to engine/.
 *
 * What: owns the engine's thread. Each step it admits waiting requests for which the KV pages of the worst case are free, computes one
 *       token for every answer in progress together with pieces of the prompts that are still being read, and reports text.
 * Who:  submit, cancel, unref and stats from any thread; everything else happens on the engine's thread.
 * Promises: first come, first served; a request once admitted runs to its end (no preemption); every accepted request gets exactly one
 *           last event; cancel takes effect after the step in progress; callbacks run without any lock held.
 */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include "engine/engine.h"
#include "engine/graph_llama.h"
#include "engine/kvcache.h"
#include "engine/tokenizer.h"

struct eng_sched;

struct eng_sched_options {
    struct eng_graph *graph; /* borrowed until stop */
    struct eng_kvcache *kv;  /* likewise */
    const struct eng_tokenizer *tok;
    uint32_t n_tokens; /* ids that may be chosen */
    uint32_t context_tokens, step_tokens;
    unsigned max_sequences, queue_max;
};

enum base_code eng_sched_start(struct eng_sched **ret_sched, const struct eng_sched_options *options,
                               struct base_err *err);
/* Cancels everything, joins the thread, gives up the caller's reference. Requests may outlive it. NULL is allowed. */
void eng_sched_stop(struct eng_sched *sched);

/* As eng_submit; the parameters are checked already except for room. */
enum base_code eng_sched_submit(struct eng_sched *sched, const struct eng_submit *submit, const int32_t *ids,
                                uint32_t n_ids, bool skip_space, struct eng_request **ret_request,
                                struct base_err *err);
void eng_sched_stats(struct eng_sched *sched, struct eng_stats *ret_stats);

#endif

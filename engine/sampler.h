/* Sampler: logits to one token. Private to engine/.
 *
 * What: penalties, then the mask, then temperature, then top-k, top-p and min-p in that order, then one draw. Greedy at
 *       temperature 0. What a request remembers from token to token (struct eng_sampler) is apart from the choice itself, which a
 *       device makes where the logits lie: the op `sample` of kernels.h. eng_choose is that of the CPU, and the reference.
 * Who:  the engine's thread alone; eng_choose any thread.
 * Promises: the choice depends on the logits, the parameters, the seed, the tokens so far and the number of draws so far only. Ties
 *           go to the lower id. The n-th draw of a seed is the same number everywhere (a counter, no state to lose).
 * Source: repetition penalty as in CTRL (arXiv 1909.05858), over prompt and answer; presence and frequency penalties as in the OpenAI
 *         API, over the answer alone; min-p as in arXiv 2407.01082.
 */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "engine/kernels.h"

struct eng_sampler;

/* BASE_INVALID for parameters out of range; the detail names the one at fault. */
enum base_code eng_sampling_check(const struct eng_sampling *sampling, struct base_err *err);

/* n_tokens: ids at or above it are never chosen. prompt: what the repetition penalty knows at first. NULL: no memory. */
struct eng_sampler *eng_sampler_new(const struct eng_sampling *sampling, uint32_t n_tokens,
                                    const int32_t *prompt, uint32_t n_prompt);
void eng_sampler_free(struct eng_sampler *sampler); /* NULL is allowed */

/* What the request wants of its next row of logits. Points into the sampler until eng_sampler_took or _free. mask and n_top are left
 * to the caller. */
void eng_sampler_choice(const struct eng_sampler *sampler, struct eng_choice *ret_choice);
/* Remembers what was chosen; -1 is allowed. */
void eng_sampler_took(struct eng_sampler *sampler, int32_t id);

struct eng_candidate {
    float logit;
    int32_t id;
    double p;
};
/* logits [n_tokens] are changed; scratch [n_tokens], unused at temperature 0. */
void eng_choose(const struct eng_choice *choice, float *logits, struct eng_candidate *scratch,
                struct eng_chosen *ret_chosen);

#endif

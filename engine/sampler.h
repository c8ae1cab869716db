/* Sampler: logits to one token. Private to engine/.
 *
 * What: penalties, then temperature, then top-k, top-p and min-p in that order, then one draw. Greedy at temperature 0.
 * Who:  the engine's thread alone.
 * Promises: the choice depends on the logits, the parameters, the seed, the tokens so far and the number of draws so far only. Ties
 *           go to the lower id. The n-th draw of a seed is the same number everywhere (a counter, no state to lose).
 * Source: repetition penalty as in CTRL (arXiv 1909.05858), over prompt and answer; presence and frequency penalties as in the OpenAI
 *         API, over the answer alone; min-p as in arXiv 2407.01082.
 */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "engine/engine.h"

struct eng_sampler;

/* BASE_INVALID for parameters out of range; the detail names the one at fault. */
enum base_code eng_sampling_check(const struct eng_sampling *sampling, struct base_err *err);

/* n_tokens: ids at or above it are never chosen. prompt: what the repetition penalty knows at first. NULL: no memory. */
struct eng_sampler *eng_sampler_new(const struct eng_sampling *sampling, uint32_t n_tokens,
                                    const int32_t *prompt, uint32_t n_prompt);
void eng_sampler_free(struct eng_sampler *sampler); /* NULL is allowed */

/* Chooses a token and remembers it; `logits` is scratch afterwards. -1 when no logit is a number. */
int32_t eng_sampler_next(struct eng_sampler *sampler, float *logits);

#endif

/* Worker pool: threads for what may block (database queries, files), so that no loop does.
 *
 * Who:  submit from any thread; a job runs on one of the pool's threads and must bound its own waiting.
 * Promises: at most `queue_max` jobs wait (BASE_FULL past that); free() runs what is queued, then joins.
 */
#ifndef BASE_WORKERS_H
#define BASE_WORKERS_H

#include "base/err.h"

struct base_workers;
/* `thread_state` is what the pool's thread_start returned for this thread (a database connection, say), or NULL. */
typedef void base_job_fn(void *arg, void *thread_state);

struct base_workers_options {
    unsigned n_threads;
    size_t queue_max;
    void *(*thread_start)(void *user); /* may be NULL */
    void (*thread_end)(void *thread_state, void *user);
    void *user;
};

struct base_workers *base_workers_new(const struct base_workers_options *options);
enum base_code base_workers_submit(struct base_workers *workers, base_job_fn *fn, void *arg);
void base_workers_free(struct base_workers *workers); /* NULL is allowed */

#endif

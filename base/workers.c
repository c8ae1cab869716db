/* Worker pool over one bounded queue. See workers.h. */
#include "base/workers.h"

#include "base/mem.h"
#include "base/queue.h"

#include <pthread.h>
#include <signal.h>

struct base_workers {
    struct base_workers_options options;
    struct base_queue *jobs;
    pthread_t threads[];
};

struct job {
    base_job_fn *fn;
    void *arg;
};

static void *worker_main(void *p)
{
    struct base_workers *workers = p;
    const struct base_workers_options *options = &workers->options;
    void *state = options->thread_start != NULL ? options->thread_start(options->user) : NULL;
    struct job *job;

    while ((job = base_queue_pop(workers->jobs, UINT64_MAX)) != NULL) {
        job->fn(job->arg, state);
        free(job);
    }
    if (options->thread_end != NULL)
        options->thread_end(state, options->user);
    return NULL;
}

struct base_workers *base_workers_new(const struct base_workers_options *options)
{
    struct base_workers *workers = base_zalloc(sizeof(*workers) + options->n_threads * sizeof(pthread_t));
    sigset_t all, before;

    workers->options = *options;
    workers->jobs = base_queue_new(options->queue_max);
    /* signals belong to the main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < options->n_threads; i++)
        if (pthread_create(&workers->threads[i], NULL, worker_main, workers) != 0)
            abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return workers;
}

enum base_code base_workers_submit(struct base_workers *workers, base_job_fn *fn, void *arg)
{
    struct job *job = base_alloc(sizeof(*job));
    enum base_code rc;

    *job = (struct job){.fn = fn, .arg = arg};
    rc = base_queue_push(workers->jobs, job);
    if (rc != BASE_OK)
        free(job);
    return rc;
}

void base_workers_free(struct base_workers *workers)
{
    if (workers == NULL)
        return;
    base_queue_close(workers->jobs);
    for (unsigned i = 0; i < workers->options.n_threads; i++)
        pthread_join(workers->threads[i], NULL);
    base_queue_free(workers->jobs);
    free(workers);
}

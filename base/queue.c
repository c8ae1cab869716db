/* Bounded queue of pointers: a ring under one mutex. See queue.h. */
#include "base/queue.h"

#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

struct base_queue {
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t readable;
    size_t head, depth, capacity;
    bool closed;
    void *items[];
};

struct base_queue *base_queue_new(size_t capacity)
{
    struct base_queue *queue = base_zalloc(sizeof(*queue) + capacity * sizeof(void *));
    pthread_condattr_t attr;

    pthread_mutex_init(&queue->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->readable, &attr);
    pthread_condattr_destroy(&attr);
    queue->capacity = capacity;
    return queue;
}

void base_queue_free(struct base_queue *queue)
{
    if (queue == NULL)
        return;
    pthread_cond_destroy(&queue->readable);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

enum base_code base_queue_push(struct base_queue *queue, void *item)
{
    enum base_code rc = BASE_OK;

    assert(item != NULL);
    pthread_mutex_lock(&queue->lock);
    if (queue->closed)
        rc = BASE_CANCELLED;
    else if (queue->depth == queue->capacity)
        rc = BASE_FULL;
    else {
        queue->items[(queue->head + queue->depth++) % queue->capacity] = item;
        pthread_cond_signal(&queue->readable);
    }
    pthread_mutex_unlock(&queue->lock);
    return rc;
}

/* With the lock held. */
static void *take_locked(struct base_queue *queue)
{
    void *item;

    if (queue->depth == 0)
        return NULL;
    item = queue->items[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->depth--;
    return item;
}

void *base_queue_pop(struct base_queue *queue, uint64_t timeout_ms)
{
    struct timespec until;
    void *item;

    if (timeout_ms != UINT64_MAX) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)(timeout_ms / 1000);
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&queue->lock);
    while (queue->depth == 0 && !queue->closed) {
        if (timeout_ms == UINT64_MAX)
            pthread_cond_wait(&queue->readable, &queue->lock);
        else if (pthread_cond_timedwait(&queue->readable, &queue->lock, &until) == ETIMEDOUT)
            break;
    }
    item = take_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void *base_queue_try_pop(struct base_queue *queue)
{
    void *item;

    pthread_mutex_lock(&queue->lock);
    item = take_locked(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void base_queue_close(struct base_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->readable);
    pthread_mutex_unlock(&queue->lock);
}

size_t base_queue_depth(struct base_queue *queue)
{
    size_t depth;

    pthread_mutex_lock(&queue->lock);
    depth = queue->depth;
    pthread_mutex_unlock(&queue->lock);
    return depth;
}

/* Bounded queue of pointers between threads.
 *
 * Who:  any number of producers and consumers.
 * Promises: never holds more than its capacity: a full queue refuses (BASE_FULL), so that load turns into 429/503 and
 *       not into memory. First in, first out. Closing wakes every waiter; what is queued can still be taken.
 */
#ifndef BASE_QUEUE_H
#define BASE_QUEUE_H

#include "base/err.h"

#include <stdint.h>

struct base_queue;

struct base_queue *base_queue_new(size_t capacity);
/* The queue must be empty or its items owned elsewhere; nobody may wait on it any more. */
void base_queue_free(struct base_queue *queue);

/* BASE_FULL at capacity, BASE_CANCELLED after close. item is not NULL. */
enum base_code base_queue_push(struct base_queue *queue, void *item);
/* Waits up to timeout_ms (UINT64_MAX: for ever). NULL: timed out, or closed and empty. */
void *base_queue_pop(struct base_queue *queue, uint64_t timeout_ms);
/* NULL when empty; does not wait. */
void *base_queue_try_pop(struct base_queue *queue);
void base_queue_close(struct base_queue *queue);
size_t base_queue_depth(struct base_queue *queue);

#endif

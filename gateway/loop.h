/* Loop: one event loop thread, as the rest of gateway/ sees it.
 *
 * What: tasks posted from any thread, one-shot timers, readiness of foreign file descriptors (hiredis, libcurl), without a word of the
 *       event library behind it (server.c has libh2o).
 * Who:  gw_loop_post from any thread; everything else on the loop's own thread.
 * Promises: a posted task runs once, in the order of its poster; a stopped timer or freed watch never calls back.
 *       A callback must end within 2 ms; debug builds log those that do not.
 */
#ifndef GATEWAY_LOOP_H
#define GATEWAY_LOOP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct gw_loop;

typedef void gw_task_fn(void *arg);
void gw_loop_post(struct gw_loop *loop, gw_task_fn *fn, void *arg);
unsigned gw_loop_index(const struct gw_loop *loop);  /* 0 .. n_threads-1 */
uint64_t gw_loop_now_ms(const struct gw_loop *loop); /* monotonic, cached per iteration */
bool gw_loop_is_current(const struct gw_loop *loop);

/* One-shot. The handle is valid until it fired or was stopped. */
struct gw_timer;
struct gw_timer *gw_timer_start(struct gw_loop *loop, uint64_t delay_ms, gw_task_fn *fn, void *arg);
void gw_timer_stop(struct gw_timer *timer); /* NULL is allowed; not after it fired */

enum { GW_IO_READ = 1, GW_IO_WRITE = 2 };
typedef void gw_io_fn(void *user, int events);
/* Watches a descriptor that stays the caller's (it is duplicated inside). Starts with no interest. The callback may change the
 * interest and may free the watch. Level-triggered: called again while the interest stands. */
struct gw_watch;
struct gw_watch *gw_watch_new(struct gw_loop *loop, int fd, gw_io_fn *fn, void *user);
void gw_watch_set(struct gw_watch *watch, int events);
void gw_watch_free(struct gw_watch *watch); /* NULL is allowed */

#endif

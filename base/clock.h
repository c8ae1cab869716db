/* Clocks. Who: any thread. Not in policy/: its decisions take the time as an argument. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Monotonic; for durations and deadlines. */
uint64_t base_mono_ns(void);
uint64_t base_mono_us(void);
uint64_t base_mono_ms(void);
/* CPU time of the calling thread. */
uint64_t base_thread_cpu_ns(void);
/* Since 1970-01-01 UTC; for records and expiry. */
int64_t base_wall_us(void);

#define BASE_RFC3339_MAX 32
/* "2026-11-20T22:52:31.123456Z" for years 1970-9999. */
void base_rfc3339(int64_t wall_us, char out[BASE_RFC3339_MAX]);

#endif

/* Clocks. See clock.h. */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t base_mono_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t base_mono_us(void)
{
    return read_ns(CLOCK_MONOTONIC) / 1000;
}

uint64_t base_mono_ms(void)
{
    return read_ns(CLOCK_MONOTONIC) / 1000000;
}

uint64_t base_thread_cpu_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

int64_t base_wall_us(void)
{
    return (int64_t)(read_ns(CLOCK_REALTIME) / 1000);
}

void base_rfc3339(int64_t wall_us, char out[BASE_RFC3339_MAX])
{
    time_t seconds = (time_t)(wall_us / 1000000);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    snprintf(out, BASE_RFC3339_MAX, "%04u-%02u-%02uT%02u:%02u:%02u.%06uZ",
             (unsigned)(tm.tm_year + 1900) % 10000u, (unsigned)(tm.tm_mon + 1) % 100u,
             (unsigned)tm.tm_mday % 100u, (unsigned)tm.tm_hour % 100u, (unsigned)tm.tm_min % 100u,
             (unsigned)tm.tm_sec % 100u, (unsigned)(wall_us % 1000000));
}

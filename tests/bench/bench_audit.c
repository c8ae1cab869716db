/* How many records per second become durable, how long one waits, and how fast they reach Postgres. Prints a
 * table beside the floor: a plain write and fdatasync of the same bytes on the same disk. Asserts nothing.
 *
 * usage: bench_audit [folder]    the journal's folder is made inside (default: the current one);
 * GH_BENCH_SECONDS per row */
#include "audit_fixture.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>

#define SAMPLES_MAX 2000000u
#define CALLERS_MAX 64u

static double seconds = 3.0;

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void print_row(const char *what, unsigned callers, uint32_t *samples_us, size_t n, double took_s,
                      uint64_t fsyncs)
{
    qsort(samples_us, n, sizeof(*samples_us), by_value);
    printf("%-28s %7u %11.0f %9.2f %9.2f %9.2f %12.1f\n", what, callers, (double)n / took_s,
           n > 0 ? samples_us[n / 2] / 1000.0 : 0, n > 0 ? samples_us[n * 99 / 100] / 1000.0 : 0,
           n > 0 ? samples_us[n - 1] / 1000.0 : 0, fsyncs > 0 ? (double)n / (double)fsyncs : 0);
}

static void bench_floor(const char *dir, size_t n_bytes)
{
    auto_free uint32_t *samples = base_alloc(SAMPLES_MAX * sizeof(*samples));
    auto_free char *bytes = base_zalloc(n_bytes);
    char path[400];
    uint64_t start = base_mono_us(), end = start + (uint64_t)(seconds * 1e6), now;
    size_t n = 0;
    int fd;

    snprintf(path, sizeof(path), "%s/floor", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((now = base_mono_us()) < end && n < SAMPLES_MAX) {
        if (write(fd, bytes, n_bytes) != (ssize_t)n_bytes || fdatasync(fd) != 0)
            break;
        samples[n++] = (uint32_t)(base_mono_us() - now);
    }
    close(fd);
    unlink(path);
    print_row("floor: write + fdatasync", 1, samples, n, (double)(base_mono_us() - start) / 1e6, n);
}

struct caller {
    struct aud *aud;
    uint64_t end_us;
    uint32_t *samples;
    size_t n, max;
};

static void *call(void *arg)
{
    struct caller *c = arg;
    char content[1024];

    memset(content, 'a', sizeof(content));
    while (base_mono_us() < c->end_us && c->n < c->max) {
        struct aud_record r = fixture_intent("req-bench-0123456789abcdef", "alice");
        uint64_t start = base_mono_us();

        r.content = content;
        r.content_len = sizeof(content);
        if (fixture_append(c->aud, &r, NULL, NULL) == BASE_OK)
            c->samples[c->n++] = (uint32_t)(base_mono_us() - start);
        else
            usleep(1000);
    }
    return NULL;
}

/* Returns how many bytes one record took in the journal. */
static size_t bench_appends(const char *dir, unsigned n_callers, bool print)
{
    auto_free uint32_t *samples = base_alloc(SAMPLES_MAX * sizeof(*samples));
    struct caller callers[CALLERS_MAX];
    pthread_t threads[CALLERS_MAX];
    char journal[400];
    struct aud_options options;
    struct aud_stats before, after;
    struct aud *aud = NULL;
    struct base_err err;
    uint64_t start;
    size_t n = 0, bytes;
    double took_s;

    snprintf(journal, sizeof(journal), "%s/j%u-%u", dir, n_callers, print);
    options = fixture_options(base_strdup(journal), false);
    options.journal_max_bytes = 8ull << 30;
    if (aud_open(&aud, &options, &err) != BASE_OK) {
        fprintf(stderr, "bench_audit: %s\n", err.detail);
        exit(1);
    }
    aud_get_stats(aud, &before);
    start = base_mono_us();
    for (unsigned i = 0; i < n_callers; i++) {
        size_t max = SAMPLES_MAX / n_callers;

        callers[i] = (struct caller){aud, start + (uint64_t)((print ? seconds : 0.2) * 1e6),
                                     samples + i * max, 0, max};
        pthread_create(&threads[i], NULL, call, &callers[i]);
    }
    for (unsigned i = 0; i < n_callers; i++)
        pthread_join(threads[i], NULL);
    took_s = (double)(base_mono_us() - start) / 1e6;
    aud_get_stats(aud, &after);
    for (unsigned i = 0; i < n_callers; i++) {
        memmove(samples + n, callers[i].samples, callers[i].n * sizeof(*samples));
        n += callers[i].n;
    }
    bytes = n > 0 ? (size_t)(after.journal_bytes - before.journal_bytes) / n : 0;
    if (print)
        print_row("append until durable", n_callers, samples, n, took_s,
                  after.fsyncs_total - before.fsyncs_total);
    aud_close(aud, 0);
    fixture_remove((char *)(uintptr_t)options.journal_dir);
    return bytes;
}

/* Records that wait in the journal, then reach Postgres. */
static void bench_ship(const char *dir)
{
    enum { N = 20000 };
    char journal[400], content[1024];
    struct aud_options options;
    struct aud *aud = NULL;
    struct base_err err;
    uint64_t start;
    double took_s;

    fixture_server = pgp_new();
    if (fixture_server == NULL)
        return;
    fixture_reset_database();
    memset(content, 'a', sizeof(content));
    snprintf(journal, sizeof(journal), "%s/ship", dir);
    options = fixture_options(base_strdup(journal), false);
    if (aud_open(&aud, &options, &err) != BASE_OK)
        exit(1);
    for (unsigned i = 0; i < N; i++) {
        struct aud_record r = fixture_intent("req-bench-0123456789abcdef", "alice");

        r.content = content;
        r.content_len = sizeof(content);
        while (aud_append(aud, &r, NULL, NULL, &err) != BASE_OK)
            usleep(1000);
    }
    aud_close(aud, 0);
    options.writer_dsn = pgp_dsn(fixture_server, "gatehouse_writer");
    options.mapper_dsn = pgp_dsn(fixture_server, "gatehouse_mapper");
    if (aud_open(&aud, &options, &err) != BASE_OK)
        exit(1);
    start = base_mono_us();
    if (!fixture_wait_shipped(aud, 120000))
        printf("not all was shipped\n");
    took_s = (double)(base_mono_us() - start) / 1e6;
    printf("\nshipped to Postgres: %.0f records/s (%d records in %.2f s, synchronous_commit on)\n",
           N / took_s, N, took_s);
    aud_close(aud, 0);
    fixture_remove((char *)(uintptr_t)options.journal_dir);
    pgp_free(fixture_server);
}

int main(int argc, char **argv)
{
    static const unsigned counts[] = {1, 8, 64};
    char dir[300];
    const char *env = getenv("GH_BENCH_SECONDS");
    size_t n_bytes;

    base_log_init(-1, BASE_LOG_ERROR);
    if (env != NULL && strtod(env, NULL) > 0)
        seconds = strtod(env, NULL);
    snprintf(dir, sizeof(dir), "%s/bench-audit-XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(dir) == NULL) {
        fprintf(stderr, "bench_audit: %s: %s\n", dir, strerror(errno));
        return 1;
    }
    n_bytes = bench_appends(dir, 1, false);
    printf("one record: %zu bytes in the journal (1024 of content)\n\n", n_bytes);
    printf("%-28s %7s %11s %9s %9s %9s %12s\n", "", "callers", "per second", "p50 ms", "p99 ms", "max ms",
           "per fsync");
    bench_floor(dir, n_bytes);
    for (size_t i = 0; i < BASE_ARRAY_LEN(counts); i++)
        bench_appends(dir, counts[i], true);
    bench_ship(dir);
    rmdir(dir);
    return 0;
}

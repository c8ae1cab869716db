/* Metrics: a table of families, each a short list of series. See metrics.h. */
#include "gateway/metrics.h"

#include "base/mem.h"

#include <pthread.h>
#include <string.h>

#define BUCKETS_MAX 16u

struct family {
    const char *name, *help;
    const double *buckets; /* NULL: a counter */
};

struct series {
    struct series *next;
    uint64_t count;
    double sum;
    uint64_t in_bucket[BUCKETS_MAX];
    char labels[];
};

static const double seconds[] = {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 0};
static const double short_seconds[] = {.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025,
                                       .005,   .01,     .025,   .05,   .1,     .5,    0};

static const struct family families[GW_M_COUNT] = {
    [GW_M_REQUESTS] = {"gatehouse_requests_total", "Requests by what became of them.", NULL},
    [GW_M_REQUEST_DURATION] = {"gatehouse_request_duration_seconds", "Arrival of a request to its last byte.",
                               seconds},
    [GW_M_OVERHEAD] = {"gatehouse_overhead_seconds", "Arrival of a request to its hand-over to a backend.",
                       short_seconds},
    [GW_M_STEP] = {"gatehouse_step_seconds", "Duration of each step of a call.", short_seconds},
    [GW_M_TTFT] = {"gatehouse_ttft_seconds", "Arrival of a request to the first text of its answer.",
                   seconds},
    [GW_M_TOKENS] = {"gatehouse_tokens_total", "Tokens read and written.", NULL},
    [GW_M_ADMISSION] = {"gatehouse_admission_total", "Limit checks by result.", NULL},
    [GW_M_LIMIT_FAIL_MODE] = {"gatehouse_limit_fail_mode_total",
                              "Requests decided by a limit's failure mode.", NULL},
    [GW_M_DECISIONS] = {"gatehouse_decisions_total", "Policy decisions.", NULL},
    [GW_M_EXTERNAL_REQUESTS] = {"gatehouse_external_requests_total", "Requests handed to external providers.",
                                NULL},
    [GW_M_GUARD_DECISIONS] = {"gatehouse_guard_decisions_total", "What the guard found and did.", NULL},
    [GW_M_ATTEMPTS] = {"gatehouse_provider_attempts_total", "Attempts at backends by result.", NULL},
    [GW_M_FAILOVER] = {"gatehouse_failover_total",
                       "Calls that went on to a next route, by the backend that failed.", NULL},
    [GW_M_LOGINS] = {"gatehouse_logins_total", "Sign-ins.", NULL},
    [GW_M_SIGN_IN] = {"gatehouse_sign_in_seconds", "From the answer of an identity provider to the session.",
                      seconds},
    [GW_M_REFRESHES] = {"gatehouse_session_refreshes_total", "Sessions that asked their provider anew.",
                        NULL},
    [GW_M_LOGOUTS] = {"gatehouse_logout_messages_total", "Messages of identity providers that end sessions.",
                      NULL},
    [GW_M_SSO_REQUESTS] = {"gatehouse_sso_requests_total",
                           "Requests to identity providers, by what was asked and how it ended.", NULL},
    [GW_M_TOKEN_CHECKS] = {"gatehouse_token_checks_total",
                           "Access tokens by who knew them and what they are.", NULL},
    [GW_M_RELOAD] = {"gatehouse_reload_total", "Reloads of policy and certificate.", NULL},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything below */
static struct series *series_of[GW_M_COUNT];
static unsigned n_series[GW_M_COUNT];
static uint64_t dropped;

/* With the lock held; NULL when the family is full. A found series moves to the front: the common ones stay near it. */
static struct series *find(enum gw_metric metric, const char *labels)
{
    struct series **at = &series_of[metric], *series;
    size_t n;

    for (; *at != NULL; at = &(*at)->next) {
        if (strcmp((*at)->labels, labels) != 0)
            continue;
        series = *at;
        *at = series->next;
        series->next = series_of[metric];
        series_of[metric] = series;
        return series;
    }
    if (n_series[metric] == GW_METRIC_SERIES_MAX) {
        dropped++;
        return NULL;
    }
    n = strlen(labels) + 1;
    series = base_zalloc(sizeof(*series) + n);
    memcpy(series->labels, labels, n);
    series->next = series_of[metric];
    series_of[metric] = series;
    n_series[metric]++;
    return series;
}

void gw_metric_add(enum gw_metric metric, const char *labels, uint64_t n)
{
    struct series *series;

    pthread_mutex_lock(&lock);
    series = find(metric, labels);
    if (series != NULL)
        series->count += n;
    pthread_mutex_unlock(&lock);
}

void gw_metric_observe(enum gw_metric metric, const char *labels, double value)
{
    const double *buckets = families[metric].buckets;
    struct series *series;

    pthread_mutex_lock(&lock);
    series = find(metric, labels);
    if (series != NULL) {
        series->count++;
        series->sum += value;
        for (unsigned i = 0; buckets[i] > 0; i++)
            if (value <= buckets[i]) {
                series->in_bucket[i]++;
                break;
            }
    }
    pthread_mutex_unlock(&lock);
}

static void put_histogram(struct base_buf *out, const struct family *family, const struct series *series)
{
    const char *comma = series->labels[0] != '\0' ? "," : "";
    uint64_t below = 0;

    for (unsigned i = 0; family->buckets[i] > 0; i++) {
        below += series->in_bucket[i];
        base_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", family->name, series->labels, comma,
                        family->buckets[i], (unsigned long long)below);
    }
    base_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", family->name, series->labels, comma,
                    (unsigned long long)series->count);
    base_buf_printf(out, "%s_sum{%s} %.9g\n%s_count{%s} %llu\n", family->name, series->labels, series->sum,
                    family->name, series->labels, (unsigned long long)series->count);
}

void gw_metrics_render(struct base_buf *out)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < GW_M_COUNT; i++) {
        const struct family *family = &families[i];

        base_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", family->name, family->help, family->name,
                        family->buckets != NULL ? "histogram" : "counter");
        for (const struct series *series = series_of[i]; series != NULL; series = series->next) {
            if (family->buckets != NULL)
                put_histogram(out, family, series);
            else
                base_buf_printf(out, "%s{%s} %llu\n", family->name, series->labels,
                                (unsigned long long)series->count);
        }
    }
    gw_metrics_put(out, "gatehouse_metrics_series_dropped_total", "counter",
                   "Series refused because their family was full.", NULL, (double)dropped);
    pthread_mutex_unlock(&lock);
}

void gw_metrics_put(struct base_buf *out, const char *name, const char *type, const char *help,
                    const char *labels, double value)
{
    base_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s%s%s%s %.17g\n", name, help, name, type, name,
                    labels != NULL ? "{" : "", labels != NULL ? labels : "", labels != NULL ? "}" : "",
                    value);
}

void gw_metrics_free(void)
{
    for (unsigned i = 0; i < GW_M_COUNT; i++) {
        while (series_of[i] != NULL) {
            struct series *next = series_of[i]->next;

            free(series_of[i]);
            series_of[i] = next;
        }
        n_series[i] = 0;
    }
}

/* Metrics: counters and histograms with closed label sets, in the Prometheus text format.
 *
 * What: families are one table (names as in docs/operations.md); a label value is a configured name or one of ours, never text from a client.
 * Who:  any thread; one short lock per observation.
 * Promises: at most GW_METRIC_SERIES_MAX series per family; what comes after is counted in gatehouse_metrics_series_dropped_total.
 */
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include "base/buf.h"

#include <stdint.h>

#define GW_METRIC_SERIES_MAX 2000u

enum gw_metric {
    GW_M_REQUESTS,          /* {api,model,route_kind,class,code} */
    GW_M_REQUEST_DURATION,  /* {api,route_kind} seconds */
    GW_M_OVERHEAD,          /* {route_kind} seconds: arrival to submit, without the backend */
    GW_M_STEP,              /* {step} seconds */
    GW_M_TTFT,              /* {model,route_kind} seconds */
    GW_M_TOKENS,            /* {model,route_kind,type} */
    GW_M_ADMISSION,         /* {result,dimension} */
    GW_M_LIMIT_FAIL_MODE,   /* {mode} */
    GW_M_DECISIONS,         /* {class,effect,reason} */
    GW_M_EXTERNAL_REQUESTS, /* {class} */
    GW_M_GUARD_DECISIONS,   /* {direction,rule,action} */
    GW_M_ATTEMPTS,          /* {backend,reason} */
    GW_M_FAILOVER,          /* {backend} */
    GW_M_LOGINS,            /* {method,result} */
    GW_M_RELOAD,            /* {what,result} */
    GW_M_SIGN_IN,           /* {provider} seconds: from the provider's answer to the session */
    GW_M_REFRESHES,         /* {provider,result}: sessions that asked their provider anew */
    GW_M_LOGOUTS,           /* {provider,result}: messages of providers that end sessions */
    GW_M_SSO_REQUESTS,      /* {provider,kind,result}: of gatehouse-sso to identity providers */
    GW_M_TOKEN_CHECKS,      /* {source,result}: access tokens */
    GW_M_COUNT
};

/* labels: `model="x",code="y"` without braces; values pass gw_label_escape or are constants. */
void gw_metric_add(enum gw_metric metric, const char *labels, uint64_t n);
void gw_metric_observe(enum gw_metric metric, const char *labels, double value);
/* Appends every family of the table. */
void gw_metrics_render(struct base_buf *out);
/* HELP and TYPE lines and one sample of a gauge or counter read at scrape time. labels may be NULL. */
void gw_metrics_put(struct base_buf *out, const char *name, const char *type, const char *help,
                    const char *labels, double value);
void gw_metrics_free(void);

#endif

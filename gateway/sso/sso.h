/* gatehouse-sso, inside: what its files share. The messages are in proto.h.
 *
 * What: the main thread reads frames and hands each request to its provider's threads; a handler may block, within the request's
 *       deadline, and fills one reply. A provider that hangs stops its own requests alone: its queue is bounded.
 * Who:  this program alone. The configuration is immutable once read.
 * Promises: nothing here writes a token, a code, a secret or a claim's value to a log or into a refusal's detail.
 */
#ifndef GATEWAY_SSO_SSO_H
#define GATEWAY_SSO_SSO_H

#include "base/check.h"
#include "base/err.h"
#include "base/queue.h"
#include "gateway/sso/proto.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SSO_PROVIDERS_MAX 16u
#define SSO_NAME_MAX      64u
#define SSO_URL_MAX       2048u
#define SSO_THREADS       3u     /* of one provider */
#define SSO_QUEUE_MAX     128u   /* requests waiting for one provider */
#define SSO_REQUEST_MS    15000u /* a handler's time from the request's arrival */
#define SSO_JSON_FLAGS    (JSON_REJECT_DUPLICATES)

enum sso_kind { SSO_NONE = 0, SSO_OIDC, SSO_SAML };

struct sso_oidc; /* oidc.h */
struct sso_saml; /* saml.h */

struct sso_provider {
    char name[SSO_NAME_MAX];
    enum sso_kind kind;
    const json_t *config; /* PROVIDER of proto.h, its required members are there and of the right kind */
    unsigned index;
    int64_t clock_skew_s;
    struct sso_oidc *oidc;
    struct sso_saml *saml;
    struct base_queue *queue;
    pthread_t threads[SSO_THREADS];
    unsigned n_threads;
    atomic_ullong fetches, fetch_failures, verified, refused;
};

struct sso_process {
    json_t *config;
    struct sso_provider providers[SSO_PROVIDERS_MAX];
    unsigned n_providers;
    /* requests that name no provider: bearer finds it by issuer, explain by trying */
    struct base_queue *general;
};

/* A request to a provider, and how it ended: words of proto.h. */
struct sso_asked {
    const struct sso_provider *provider;
    const char *kind, *result;
};

/* One request on its thread. */
struct sso_ctx {
    struct sso_process *process;
    struct sso_provider *provider; /* NULL when the request names none */
    uint64_t deadline_ms;          /* base_mono_ms */
    struct sso_asked asked[SSO_ASKED_MAX];
    unsigned n_asked;
};

struct sso_reply {
    json_t *body; /* what is added to {"ok": true}; owned */
    bool refused;
    const char *code, *check;
    char detail[BASE_DETAIL_MAX];
};

/* Always false, so that a check reads: if (!CHECK("oidc.audience", fits)) return sso_refuse(reply, "oidc.audience", "...");
 * The first refusal stays. Code "refused". */
bool sso_refuse(struct sso_reply *reply, const char *check, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for another code: "unavailable", "timeout", "busy", "invalid", "internal". check names the step ("oidc.discovery"). */
bool sso_fail(struct sso_reply *reply, const char *code, const char *check, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void sso_reply_free(struct sso_reply *reply);

/* Wall clock, Unix seconds; test builds may shift it (`mutate`). */
int64_t sso_now(void);

/* A text of a request or configuration; NULL when absent or no text. */
const char *sso_text(const json_t *object, const char *name);
struct sso_provider *sso_provider_find(struct sso_process *process, const char *name);

/* A text for a detail: printable ASCII, cut at 64, the rest as '?'. Into out, which is returned. Names of things alone. */
const char *sso_show(const char *text, char out[72]);

#endif

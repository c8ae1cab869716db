/* Serving. See serve.h.
 *
 * Invariants:
 *   1. every request gets exactly one reply, also when its queue is full or it is nonsense;
 *   2. a request waits in its provider's queue alone, and no longer than its deadline;
 *   3. replies are written whole, under one lock.
 */
#include "gateway/sso/serve.h"
#include "gateway/sso/http.h"
#include "gateway/sso/oidc.h"
#include "gateway/sso/proto.h"
#include "gateway/sso/saml.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INPUT_MAX   (2u * (SSO_FRAME_MAX + SSO_FRAME_HEADER))
#define N_GENERAL   2u
#define ANSWER_ROOM (2u << 20)

/* ---- replies ---- */

static bool fill(struct sso_reply *reply, const char *code, const char *check, const char *fmt, va_list args)
{
    if (reply->refused)
        return false;
    reply->refused = true;
    reply->code = code;
    reply->check = check;
    vsnprintf(reply->detail, sizeof(reply->detail), fmt, args);
    return false;
}

bool sso_refuse(struct sso_reply *reply, const char *check, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fill(reply, "refused", check, fmt, args);
    va_end(args);
    return false;
}

bool sso_fail(struct sso_reply *reply, const char *code, const char *check, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    fill(reply, code, check, fmt, args);
    va_end(args);
    return false;
}

void sso_reply_free(struct sso_reply *reply)
{
    json_decref(reply->body);
    reply->body = NULL;
}

/* Details are ASCII by their making; what a peer may have put into one is not trusted to be. */
static void ascii_only(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || (unsigned char)*text >= 0x7f)
            *text = '?';
}

static void add_asked(json_t *root, const struct sso_ctx *ctx)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < ctx->n_asked; i++)
        json_array_append_new(list, json_pack("[s, s, s]", ctx->asked[i].provider->name, ctx->asked[i].kind,
                                              ctx->asked[i].result));
    json_object_set_new(root, "asked", list);
}

static json_t *reply_json(struct sso_reply *reply, const struct sso_ctx *ctx)
{
    json_t *root;

    if (!reply->refused) {
        root = reply->body != NULL ? json_incref(reply->body) : json_object();
        json_object_set_new(root, "ok", json_true());
    } else {
        ascii_only(reply->detail);
        root = json_pack("{s:b, s:s, s:s, s:s}", "ok", 0, "code", reply->code, "check", reply->check,
                         "detail", reply->detail);
    }
    if (ctx->n_asked > 0)
        add_asked(root, ctx);
    return root;
}

/* ---- small things that every file uses ---- */

static _Atomic int64_t clock_offset_s; /* test builds */

int64_t sso_now(void)
{
    return base_wall_us() / 1000000 + atomic_load(&clock_offset_s);
}

const char *sso_text(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

struct sso_provider *sso_provider_find(struct sso_process *process, const char *name)
{
    for (unsigned i = 0; i < process->n_providers; i++)
        if (strcmp(process->providers[i].name, name) == 0)
            return &process->providers[i];
    return NULL;
}

const char *sso_show(const char *text, char out[72])
{
    size_t n = 0;

    if (text == NULL)
        return strcpy(out, "(none)");
    for (; text[n] != '\0' && n < 64; n++)
        out[n] = (char)((unsigned char)text[n] > 0x20 && (unsigned char)text[n] < 0x7f ? text[n] : '?');
    strcpy(out + n, text[n] != '\0' ? "..." : "");
    return out;
}

/* ---- operations ---- */

static void op_stats(struct sso_process *process, struct sso_reply *reply)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < process->n_providers; i++) {
        struct sso_provider *provider = &process->providers[i];
        json_t *item = json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", provider->name, "fetches",
                                 (json_int_t)atomic_load(&provider->fetches), "fetch_failures",
                                 (json_int_t)atomic_load(&provider->fetch_failures), "verified",
                                 (json_int_t)atomic_load(&provider->verified), "refused",
                                 (json_int_t)atomic_load(&provider->refused));

        if (provider->kind == SSO_OIDC && provider->oidc != NULL)
            sso_oidc_stats(provider, item);
        json_array_append_new(list, item);
    }
    reply->body = json_pack("{s:o}", "providers", list);
}

#ifdef GH_MUTATIONS
/* The one thing that test builds can do: switch a check off, move the clock. */
static void op_mutate(const json_t *request, struct sso_reply *reply)
{
    static char name[128];
    const char *check = sso_text(request, "check");

    snprintf(name, sizeof(name), "%s", check != NULL ? check : "");
    base_check_off = name[0] != '\0' ? name : NULL;
    atomic_store(&clock_offset_s, json_integer_value(json_object_get(request, "clock_offset_s")));
    reply->body = json_object();
}
#endif

static void op_explain(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *text = sso_text(request, "text");

    if (text == NULL)
        sso_fail(reply, "invalid", "explain.text", "there is nothing to explain");
    else if (ctx->provider != NULL ? ctx->provider->kind == SSO_OIDC : sso_oidc_looks_like(text))
        sso_oidc_handle(ctx, "explain", request, reply);
    else
        sso_saml_handle(ctx, "explain", request, reply);
}

static void dispatch(struct sso_ctx *ctx, const char *op, const json_t *request, struct sso_reply *reply)
{
    const struct sso_provider *provider = ctx->provider;

    if (strcmp(op, "stats") == 0) {
        op_stats(ctx->process, reply);
#ifdef GH_MUTATIONS
    } else if (strcmp(op, "mutate") == 0) {
        op_mutate(request, reply);
#endif
    } else if (strcmp(op, "explain") == 0) {
        op_explain(ctx, request, reply);
    } else if (strcmp(op, "bearer") == 0) {
        sso_oidc_handle(ctx, op, request, reply);
    } else if (provider == NULL) {
        sso_fail(reply, "invalid", "request.provider", "no such provider is configured");
    } else if (provider->kind == SSO_OIDC && (strncmp(op, "oidc_", 5) == 0 || strcmp(op, "check") == 0)) {
        sso_oidc_handle(ctx, op, request, reply);
    } else if (provider->kind == SSO_SAML && (strncmp(op, "saml_", 5) == 0 || strcmp(op, "check") == 0)) {
        sso_saml_handle(ctx, op, request, reply);
    } else {
        sso_fail(reply, "invalid", "request.op", "this provider does not do that");
    }
}

json_t *sso_answer(struct sso_process *process, const json_t *request, uint64_t deadline_ms)
{
    const char *op = sso_text(request, "op"), *name = sso_text(request, "provider");
    struct sso_ctx ctx = {.process = process, .deadline_ms = deadline_ms};
    struct sso_reply reply = {0};
    json_t *json;

    ctx.provider = name != NULL ? sso_provider_find(process, name) : NULL;
    if (op == NULL)
        sso_fail(&reply, "invalid", "request.op", "a request without op");
    else if (name != NULL && ctx.provider == NULL)
        sso_fail(&reply, "invalid", "request.provider", "no such provider is configured");
    else if (ctx.provider != NULL && (ctx.provider->kind == SSO_OIDC ? (void *)ctx.provider->oidc
                                                                     : (void *)ctx.provider->saml) == NULL)
        sso_fail(&reply, "invalid", "request.provider", "this provider's configuration does not hold");
    else if (base_mono_ms() >= deadline_ms)
        sso_fail(&reply, "timeout", "request.deadline", "the request waited for too long");
    else
        dispatch(&ctx, op, request, &reply);
    if (ctx.provider != NULL && reply.refused && strcmp(reply.code, "refused") == 0)
        atomic_fetch_add(&ctx.provider->refused, 1);
    json = reply_json(&reply, &ctx);
    sso_reply_free(&reply);
    return json;
}

/* ---- configuration ---- */

static const char *configure_one(struct sso_provider *provider, const json_t *config, unsigned index,
                                 struct base_err *err)
{
    const char *name = sso_text(config, "name"), *kind = sso_text(config, "kind");
    const json_t *skew = json_object_get(config, "clock_skew_s");
    enum base_code rc;

    provider->index = index;
    provider->config = config;
    provider->clock_skew_s = json_is_integer(skew) ? json_integer_value(skew) : 60;
    if (name == NULL || name[0] == '\0' || strlen(name) >= sizeof(provider->name))
        return "a provider has no name";
    strcpy(provider->name, name);
    if (provider->clock_skew_s < 0 || provider->clock_skew_s > 300)
        return "clock_skew_s is not between 0 and 300";
    if (kind != NULL && strcmp(kind, "oidc") == 0)
        provider->kind = SSO_OIDC;
    else if (kind != NULL && strcmp(kind, "saml") == 0)
        provider->kind = SSO_SAML;
    else
        return "its kind is neither oidc nor saml";
    rc = provider->kind == SSO_OIDC ? sso_oidc_new(provider, err) : sso_saml_new(provider, err);
    return rc == BASE_OK ? NULL : err->detail;
}

enum base_code sso_process_new(struct sso_process **ret_process, const char *json, size_t len,
                               json_t **ret_reply, struct base_err *err)
{
    struct sso_process *process;
    json_t *root = json_loadb(json, len, SSO_JSON_FLAGS, NULL), *results;
    const json_t *list = json_object_get(root, "providers");
    const char *op = sso_text(root, "op");

    if (op == NULL || strcmp(op, "configure") != 0 || !json_is_array(list) ||
        json_array_size(list) > SSO_PROVIDERS_MAX) {
        json_decref(root);
        return base_fail(err, BASE_INVALID, 0,
                         "the first message must be a configuration of at most %u providers",
                         SSO_PROVIDERS_MAX);
    }
    process = base_zalloc(sizeof(*process));
    process->config = root;
    results = json_array();
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct base_err why = {0};
        struct sso_provider *provider = &process->providers[i];
        const char *wrong = configure_one(provider, json_array_get(list, i), (unsigned)i, &why);

        if (wrong != NULL)
            base_log(BASE_LOG_ERROR, "sso.provider", "a provider cannot be used",
                     LOG_STR("provider", provider->name), LOG_STR("detail", wrong));
        json_array_append_new(results, json_pack("{s:s, s:b, s:s}", "name", provider->name, "ok",
                                                 wrong == NULL, "detail", wrong != NULL ? wrong : ""));
        process->n_providers++;
    }
    *ret_reply = json_pack("{s:b, s:o}", "ok", 1, "providers", results);
    *ret_process = process;
    return BASE_OK;
}

void sso_process_free(struct sso_process *process)
{
    if (process == NULL)
        return;
    for (unsigned i = 0; i < process->n_providers; i++) {
        sso_oidc_free(&process->providers[i]);
        sso_saml_free(&process->providers[i]);
    }
    json_decref(process->config);
    free(process);
}

/* ---- frames ---- */

static struct {
    char *data;
    size_t len, used; /* bytes that are there; of them those done with */
} input;
static pthread_mutex_t output_lock = PTHREAD_MUTEX_INITIALIZER;
static json_t *configure_reply;
static uint64_t configure_id;

/* The next frame; its bytes hold until the next call. BASE_CANCELLED: closed. */
static enum base_code next_frame(struct sso_frame *ret_frame, struct base_err *err)
{
    if (input.data == NULL)
        input.data = base_alloc(INPUT_MAX);
    base_wipe(input.data, input.used); /* the frame before */
    memmove(input.data, input.data + input.used, input.len - input.used);
    input.len -= input.used;
    input.used = 0;
    for (;;) {
        enum base_code rc = sso_frame_take(input.data, input.len, ret_frame, &input.used, err);
        ssize_t n;

        if (rc != BASE_NOT_FOUND)
            return rc;
        n = read(SSO_FD, input.data + input.len, INPUT_MAX - input.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return base_fail(err, BASE_CANCELLED, n < 0 ? errno : 0, "the gateway has closed");
        input.len += (size_t)n;
    }
}

static void write_all(const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = write(SSO_FD, bytes, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return; /* the gateway is gone: the reader notices */
        bytes += done;
        n -= (size_t)done;
    }
}

static void send_reply(uint64_t id, const json_t *json)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(ANSWER_ROOM);
    char *text = json_dumps(json, JSON_COMPACT);
    size_t len = text != NULL ? strlen(text) : 0;
    static const char too_long[] =
        "{\"ok\":false,\"code\":\"internal\",\"check\":\"reply.size\",\"detail\":\"the reply is too long\"}";

    if (text == NULL || sso_frame_append(&out, id, text, len, NULL) != BASE_OK)
        sso_frame_append(&out, id, too_long, sizeof(too_long) - 1, NULL);
    pthread_mutex_lock(&output_lock);
    write_all(out.data, out.len);
    pthread_mutex_unlock(&output_lock);
    base_wipe(out.data, out.len);
    if (text != NULL) {
        base_wipe(text, len);
        free(text);
    }
}

/* ---- threads ---- */

struct job {
    uint64_t id, deadline_ms;
    json_t *request;
};

struct thread_args {
    struct sso_process *process;
    struct base_queue *queue;
};

static void *thread_main(void *p)
{
    struct thread_args args = *(struct thread_args *)p;
    struct job *job;

    free(p);
    while ((job = base_queue_pop(args.queue, UINT64_MAX)) != NULL) {
        json_t *reply = sso_answer(args.process, job->request, job->deadline_ms);

        send_reply(job->id, reply);
        json_decref(reply);
        json_decref(job->request);
        free(job);
    }
    sso_http_thread_end();
    return NULL;
}

static bool start_threads(struct sso_process *process, struct base_queue *queue, pthread_t *threads,
                          unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct thread_args *args = base_alloc(sizeof(*args));

        *args = (struct thread_args){.process = process, .queue = queue};
        if (pthread_create(&threads[i], NULL, thread_main, args) != 0) {
            free(args);
            return false;
        }
    }
    return true;
}

static void send_failure(uint64_t id, const char *code, const char *check, const char *detail)
{
    json_t *json = json_pack("{s:b, s:s, s:s, s:s}", "ok", 0, "code", code, "check", check, "detail", detail);

    send_reply(id, json);
    json_decref(json);
}

static void take_request(struct sso_process *process, const struct sso_frame *frame)
{
    json_t *request = json_loadb(frame->json, frame->len, SSO_JSON_FLAGS, NULL);
    const char *name = sso_text(request, "provider");
    struct sso_provider *provider = name != NULL ? sso_provider_find(process, name) : NULL;
    struct job *job;

    if (!json_is_object(request)) {
        json_decref(request);
        send_failure(frame->id, "invalid", "request.json", "not a JSON object");
        return;
    }
    job = base_alloc(sizeof(*job));
    *job = (struct job){.id = frame->id, .deadline_ms = base_mono_ms() + SSO_REQUEST_MS, .request = request};
    if (base_queue_push(provider != NULL ? provider->queue : process->general, job) == BASE_OK)
        return;
    send_failure(frame->id, "busy", "request.queue", "too many requests wait for this provider");
    json_decref(request);
    free(job);
}

enum base_code sso_serve_configure(struct sso_process **ret_process, struct base_err *err)
{
    struct sso_frame frame;
    enum base_code rc = next_frame(&frame, err);

    if (rc != BASE_OK)
        return rc;
    sso_oidc_init();
    sso_saml_init();
    configure_id = frame.id;
    return sso_process_new(ret_process, frame.json, frame.len, &configure_reply, err);
}

int sso_serve(struct sso_process *process)
{
    pthread_t general[N_GENERAL];
    struct base_err err = {0};
    struct sso_frame frame;
    bool started;

    process->general = base_queue_new(SSO_QUEUE_MAX);
    started = start_threads(process, process->general, general, N_GENERAL);
    for (unsigned i = 0; i < process->n_providers && started; i++) {
        struct sso_provider *provider = &process->providers[i];

        provider->queue = base_queue_new(SSO_QUEUE_MAX);
        started = start_threads(process, provider->queue, provider->threads, SSO_THREADS);
    }
    if (!started) {
        base_log(BASE_LOG_ERROR, "sso.start_failed", "threads cannot be started");
        return 1;
    }
    send_reply(configure_id, configure_reply);
    json_decref(configure_reply);
    while (next_frame(&frame, &err) == BASE_OK)
        take_request(process, &frame);
    if (err.code != BASE_CANCELLED)
        base_log_err(BASE_LOG_ERROR, "sso.protocol", "the gateway broke the framing", &err);
    /* Threads may be waiting for a provider; nobody waits for them any more. */
    fflush(NULL);
    _exit(err.code == BASE_CANCELLED ? 0 : 1);
}

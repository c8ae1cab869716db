/* Call: the way of one request.
 *
 *   identify -> parse -> admit -> inspect -> decide -> record -> serve -> (settle)
 *       |         |        |         |          |         |        |
 *      401       400    429/503     400        403       503   next route, or an error (event)
 *
 *   identify   credentials become a principal                                        auth.c
 *   parse      one parse; the client's bytes are not looked at again                 codec_openai.c
 *   admit      limits: one request and the reserved tokens, or a refusal             limits.c
 *   inspect    every text is scanned once: findings and markings                     policy: pol_scan
 *   decide     class, routes, guard, from facts alone; then findings are masked      policy: pol_decide, pol_mask
 *   record     the intent is durable before anything leaves the process              audit
 *   serve      routes in order; text is guarded, framed and written as it comes      backend, policy: pol_stream, call_answer.c
 *   settle     outcome recorded, reservation corrected, metrics, one log line        call_settle.c
 *
 * Invariants:
 *  1. Everything here runs on the call's loop. `holds` counts messages that other threads (worker, audit) still owe it.
 *  2. The call is freed when the connection is done with it (`closed`) and `holds` is 0; until then its arena lives.
 *  3. `http` is NULL once closed. Nothing is written after that, and a running backend call is cancelled in the same callback.
 *  4. settle runs exactly once for every call that got as far as an intent, however it ends; before that, nothing left the process.
 *  5. No route is tried that the one decision did not list; a reload does not touch a running call (it holds its runtime).
 *  6. After the first text of an answer no other route is tried.
 *  7. From identify to settle the call stands in its loop's live list: a revocation ends it like an error, with the status "cut".
 */
#include "gateway/call_priv.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/codec_openai.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <string.h>

#define CALL_ARENA_MAX   (64u << 20)
#define PARSE_INLINE_MAX (64u << 10) /* longer bodies are parsed by a worker */
#define INSPECT_INLINE_MAX \
    (64u << 10) /* longer texts are scanned by a worker: 2 ms at the scanner's slowest */

static void step_admit(struct gw_call *call);
static void step_inspect(struct gw_call *call);
static void step_decide(struct gw_call *call);
static void step_record(struct gw_call *call);

/* ---- life ---- */

void gw_call_maybe_free(struct gw_call *call)
{
    if (!call->closed || call->holds > 0)
        return;
    atomic_fetch_sub(&call->loop_state->calls_in_flight, 1);
    gw_call_answer_free(call);
    for (size_t i = 0; call->findings != NULL && i < gw_chat_n_texts(&call->chat); i++)
        pol_findings_free(&call->findings[i]);
    free(call->findings);
    gw_runtime_unref(call->runtime);
    base_arena_unref(call->arena);
    free(call);
}

/* The connection is done with this request: answered, or the client left. */
static void on_closed(void *user)
{
    struct gw_call *call = user;

    call->closed = true;
    call->http = NULL;
    gw_auth_forget(call->pending_auth);
    call->pending_auth = NULL;
    if (call->pending_limit != NULL) {
        gw_limits_forget(call->pending_limit);
        call->pending_limit = NULL;
    }
    if (!call->done) { /* the client left */
        gw_call_end(call, "cancelled", NULL);
    }
    gw_call_maybe_free(call);
}

void gw_call_step(struct gw_call *call, const char *name)
{
    uint64_t now = base_mono_us();
    char labels[48];

    snprintf(labels, sizeof(labels), "step=\"%s\"", name);
    gw_metric_observe(GW_M_STEP, labels, (double)(now - call->step_since_us) / 1e6);
    call->step_since_us = now;
}

void gw_call_refuse(struct gw_call *call, const struct gw_api_error *error)
{
    gw_call_end(call, call->intent_recorded ? "error" : "refused", gw_api_code_name(error->code));
    if (call->http != NULL)
        gw_call_answer_error(call, error);
}

static void refuse(struct gw_call *call, enum gw_api_code code)
{
    struct gw_api_error error = {.code = code};

    gw_call_refuse(call, &error);
}

/* ---- parse ---- */

/* The request's own label: a wrong word is not ignored, it denies. */
static void read_label(struct gw_call *call)
{
    size_t len = 0;
    const char *label = gw_http_header(call->http, "x-data-class", &len);

    call->facts.label_given = gw_http_header_count(call->http, "x-data-class") > 0;
    call->facts.label = label != NULL ? pol_class_parse(label, len) : POL_CLASS_UNKNOWN;
}

static void parsed(struct gw_call *call)
{
    size_t len;
    const char *flag;

    if (!call->parse.ok) {
        gw_call_refuse(call, &call->parse.error);
        return;
    }
    read_label(call);
    flag = gw_http_header(call->http, "x-gatehouse-events", &len);
    call->own_events =
        call->principal.method == GW_AUTH_SESSION || (flag != NULL && len == 1 && flag[0] == '1');
    gw_call_step(call, "parse");
    step_admit(call);
}

static void on_parsed(void *arg) /* back on the loop */
{
    struct gw_call *call = arg;

    call->holds--;
    free(call->parse.body);
    call->parse.body = NULL;
    if (call->done)
        gw_call_maybe_free(call);
    else
        parsed(call);
}

static void parse_job(void *arg, void *thread_state) /* on a worker */
{
    struct gw_call *call = arg;

    (void)thread_state;
    call->parse.ok =
        gw_openai_parse_chat(&call->chat, call->arena, call->parse.body, call->parse.len, &call->parse.error);
    gw_loop_post(call->loop, on_parsed, call);
}

static void step_parse(struct gw_call *call)
{
    size_t len;
    const char *body = gw_http_body(call->http, &len);

    if (len <= PARSE_INLINE_MAX) {
        call->parse.ok = gw_openai_parse_chat(&call->chat, call->arena, body, len, &call->parse.error);
        parsed(call);
        return;
    }
    call->parse.body = base_memdup0(body, len); /* the client may leave, and take its own along */
    call->parse.len = len;
    call->holds++;
    if (base_workers_submit(call->app->workers, parse_job, call) != BASE_OK) {
        call->holds--;
        free(call->parse.body);
        call->parse.body = NULL;
        refuse(call, GW_API_ENGINE_BUSY);
    }
}

/* ---- identify ---- */

/* Access has ended while the call ran (live.h): the backend is stopped, the client is told why. */
static void on_cut(void *user)
{
    struct gw_call *call = user;
    const struct gw_api_error error = {
        .code = call->principal.method == GW_AUTH_SESSION ? GW_API_SESSION_ENDED : GW_API_REVOKED_API_KEY};

    if (call->pending_limit != NULL)
        gw_limits_forget(call->pending_limit);
    call->pending_limit = NULL;
    gw_call_end(call, "cut", gw_api_code_name(error.code));
    if (call->http != NULL)
        gw_call_answer_error(call, &error);
}

static void on_identified(enum gw_auth_result result, const struct gw_principal *principal, void *user)
{
    struct gw_call *call = user;

    call->pending_auth = NULL;
    call->identifying = false;
    if (result != GW_AUTH_OK) {
        refuse(call, gw_auth_api_code(result));
        return;
    }
    call->principal = *principal;
    call->live =
        (struct gw_live_entry){.loop = call->loop, .who = &call->principal, .cut = on_cut, .user = call};
    gw_live_add(call->app->live, &call->live);
    for (unsigned i = 0; i < principal->n_roles; i++)
        call->roles[i] = call->principal.roles[i];
    aud_pseudonym(call->app->audit, principal->issuer, principal->subject, call->pseudonym);
    gw_call_step(call, "identify");
    step_parse(call);
}

/* ---- admit ---- */

/* The model's name if policy knows it: a client's own words never become a counter's key or a label. */
static const char *known_model(struct gw_call *call)
{
    const struct pol_snapshot *policy = gw_runtime_policy(call->runtime);

    for (size_t i = 0; i < pol_n_models(policy); i++)
        if (strcmp(pol_model_at(policy, i)->name, call->chat.model) == 0)
            return pol_model_at(policy, i)->name;
    return "other";
}

/* What a prompt may cost before a tokenizer has seen it: four bytes a token for most text, three to be on the safe side. */
static uint64_t estimate_prompt(const struct gw_chat *chat)
{
    return chat->content_bytes / 3 + 8 * chat->n_messages;
}

static void count_admission(const struct gw_limit_result *result)
{
    const char *dimension = result->dimension == GW_LIMIT_REQUESTS ? "requests"
                            : result->dimension == GW_LIMIT_NONE   ? "none"
                                                                   : "tokens";
    char labels[80];

    snprintf(labels, sizeof(labels), "result=\"%s\",dimension=\"%s\"",
             result->allowed ? "admitted" : "limited", dimension);
    gw_metric_add(GW_M_ADMISSION, labels, 1);
    if (result->store_away)
        gw_metric_add(GW_M_LIMIT_FAIL_MODE, result->allowed ? "mode=\"open\"" : "mode=\"closed\"", 1);
}

static void on_limited(const struct gw_limit_result *result, struct gw_limit_ticket *ticket, void *user)
{
    struct gw_call *call = user;
    struct gw_api_error error = {0};

    call->pending_limit = NULL;
    call->limit_deciding = false;
    call->ticket = ticket;
    call->limit = *result;
    count_admission(result);
    if (result->allowed) {
        gw_call_step(call, "admit");
        step_inspect(call);
        return;
    }
    if (result->store_away)
        error.code = GW_API_LIMITS_UNAVAILABLE;
    else if (result->dimension == GW_LIMIT_TOO_LARGE)
        error.code = GW_API_REQUEST_TOO_LARGE_FOR_LIMIT;
    else
        error.code =
            result->dimension == GW_LIMIT_TOKENS ? GW_API_RATE_LIMIT_TOKENS : GW_API_RATE_LIMIT_REQUESTS;
    error.retry_after_s = result->store_away ? 5 : (unsigned)((result->retry_after_ms + 999) / 1000);
    if (error.retry_after_s == 0 && error.code != GW_API_REQUEST_TOO_LARGE_FOR_LIMIT)
        error.retry_after_s = 1;
    gw_call_refuse(call, &error);
}

static void step_admit(struct gw_call *call)
{
    struct gw_limit_request request = {
        .principal = call->pseudonym,
        .limits = &call->limits,
        .tokens =
            estimate_prompt(&call->chat) +
            (call->chat.max_tokens > 0 ? call->chat.max_tokens : call->app->config->default_reserve_tokens),
    };
    struct gw_limit_pending *pending;

    call->runtime = gw_app_runtime(call->app);
    call->model_label = known_model(call);
    request.model = call->model_label;
    pol_limits_for(gw_runtime_policy(call->runtime), call->roles, call->principal.n_roles, &call->limits);
    call->limit_deciding = true;
    call->holds++; /* on_limited may end and free the call before admit returns */
    pending = gw_limits_admit(call->loop_state->limits, &request, on_limited, call);
    if (call->limit_deciding)
        call->pending_limit = pending;
    call->holds--;
    gw_call_maybe_free(call);
}

/* ---- inspect ---- */

static enum base_code scan_texts(struct gw_call *call, struct pol_scratch *scratch)
{
    const struct pol_snapshot *policy = gw_runtime_policy(call->runtime);

    for (size_t i = 0; i < gw_chat_n_texts(&call->chat); i++) {
        struct gw_text *text = gw_chat_text(&call->chat, i);
        enum base_code rc =
            pol_scan(policy, scratch, text->bytes, text->len, &call->findings[i], &call->inspect_err);

        if (rc != BASE_OK)
            return rc;
    }
    return BASE_OK;
}

/* What the findings of all texts are together: facts for the decision. */
static void gather_facts(struct gw_call *call)
{
    for (size_t i = 0; i < gw_chat_n_texts(&call->chat); i++) {
        const struct pol_findings *findings = &call->findings[i];

        if (findings->marking > call->facts.marking)
            call->facts.marking = findings->marking;
        for (size_t k = 0; k < findings->n; k++) {
            call->facts.detected |= 1u << findings->items[k].detector;
            call->n_found[findings->items[k].detector]++;
        }
    }
}

static void inspected(struct gw_call *call)
{
    if (call->inspect_rc != BASE_OK) {
        struct gw_api_error error;

        base_log_err(BASE_LOG_WARN, "call.inspect", gw_http_request_id(call->http), &call->inspect_err);
        gw_api_fail(&error, GW_API_CONTENT_BLOCKED, "messages",
                    "The messages cannot be checked: they hold too many findings.");
        gw_call_refuse(call, &error);
        return;
    }
    gather_facts(call);
    gw_call_step(call, "inspect");
    step_decide(call);
}

static void on_inspected(void *arg) /* back on the loop */
{
    struct gw_call *call = arg;

    call->holds--;
    if (call->done)
        gw_call_maybe_free(call);
    else
        inspected(call);
}

static void inspect_job(void *arg, void *thread_state) /* on a worker */
{
    struct gw_call *call = arg;
    struct pol_scratch *scratch = pol_scratch_new();

    (void)thread_state;
    call->inspect_rc = scan_texts(call, scratch);
    pol_scratch_free(scratch);
    gw_loop_post(call->loop, on_inspected, call);
}

static void step_inspect(struct gw_call *call)
{
    call->findings = base_try_zarray(gw_chat_n_texts(&call->chat), sizeof(*call->findings));
    if (call->findings == NULL) {
        refuse(call, GW_API_INTERNAL);
        return;
    }
    if (call->chat.content_bytes <= INSPECT_INLINE_MAX) {
        call->inspect_rc = scan_texts(call, call->loop_state->scratch);
        inspected(call);
        return;
    }
    call->holds++;
    if (base_workers_submit(call->app->workers, inspect_job, call) != BASE_OK) {
        call->holds--;
        refuse(call, GW_API_ENGINE_BUSY);
    }
}

/* ---- decide ---- */

static enum gw_api_code deny_error(enum pol_deny deny)
{
    switch (deny) {
    case POL_DENY_NO_ROLE: return GW_API_NO_ROLE;
    case POL_DENY_MODEL_UNKNOWN:
    case POL_DENY_MODEL_NOT_ALLOWED: return GW_API_MODEL_NOT_FOUND;
    case POL_DENY_CLASS_UNKNOWN: return GW_API_CLASS_UNKNOWN;
    case POL_DENY_GUARD_BLOCK: return GW_API_CONTENT_BLOCKED;
    case POL_DENY_CLASS_TOO_HIGH:
    case POL_DENY_UNSPECIFIED: break;
    }
    return GW_API_CLASS_TOO_HIGH;
}

/* Masked texts replace the client's own: from here on nothing reads the originals. */
static enum base_code mask_texts(struct gw_call *call)
{
    auto_buf struct base_buf masked = BASE_BUF_INIT(CALL_ARENA_MAX);

    for (size_t i = 0; i < gw_chat_n_texts(&call->chat); i++) {
        struct gw_text *text = gw_chat_text(&call->chat, i);
        uint32_t n_masked = 0;
        enum base_code rc;

        if (call->findings[i].n == 0)
            continue;
        base_buf_reset(&masked);
        rc = pol_mask(&call->decision.guard, text->bytes, text->len, &call->findings[i], &masked, &n_masked);
        if (rc != BASE_OK)
            return rc;
        if (n_masked == 0)
            continue;
        text->bytes = base_arena_dup(call->arena, masked.data != NULL ? masked.data : "", masked.len);
        if (text->bytes == NULL)
            return BASE_TOO_LARGE;
        text->len = masked.len;
        call->n_masked_in += n_masked;
    }
    return BASE_OK;
}

static void count_decision(const struct gw_call *call)
{
    const struct pol_decision *decision = &call->decision;
    bool allowed = decision->effect == POL_ALLOW;
    char labels[120];

    snprintf(labels, sizeof(labels), "class=\"%s\",effect=\"%s\",reason=\"%s\"",
             pol_class_name(decision->cls), allowed ? "allow" : "deny",
             allowed ? "none" : pol_deny_name(decision->deny));
    gw_metric_add(GW_M_DECISIONS, labels, 1);
    for (int d = 1; d < POL_DETECT_COUNT; d++) {
        if (call->n_found[d] == 0)
            continue;
        snprintf(labels, sizeof(labels), "direction=\"in\",rule=\"%s\",action=\"%s\"",
                 pol_detector_name((enum pol_detector)d), pol_action_name(decision->guard.input[d]));
        gw_metric_add(GW_M_GUARD_DECISIONS, labels, call->n_found[d]);
    }
}

static void step_decide(struct gw_call *call)
{
    call->facts.roles = call->roles;
    call->facts.n_roles = call->principal.n_roles;
    call->facts.model = call->chat.model;
    pol_decide(gw_runtime_policy(call->runtime), &call->facts, &call->decision);
    call->decided = true;
    count_decision(call);
    if (call->decision.effect == POL_ALLOW && call->facts.detected != 0 && mask_texts(call) != BASE_OK) {
        refuse(call, GW_API_INTERNAL);
        return;
    }
    gw_call_step(call, "decide");
    step_record(call);
}

/* ---- record ---- */

static void denied(struct gw_call *call)
{
    struct gw_api_error error = {.code = deny_error(call->decision.deny)};

    if (error.code == GW_API_MODEL_NOT_FOUND)
        snprintf(error.param, sizeof(error.param), "model");
    if (error.code == GW_API_CLASS_TOO_HIGH)
        gw_api_fail(
            &error, error.code, NULL,
            "This request is classified %s (by %s), which is more than this model or your role may take. "
            "Choose a model that stays in the house, or ask your administrator.",
            pol_class_name(call->decision.cls), call->decision.cls_source);
    gw_call_end(call, "denied", gw_api_code_name(error.code));
    if (call->http != NULL)
        gw_call_answer_error(call, &error);
}

static void on_recorded(void *arg) /* back on the loop */
{
    struct gw_call *call = arg;

    call->holds--;
    if (call->intent_rc == BASE_OK)
        call->intent_recorded = true;
    if (call->done) { /* the client left meanwhile: the outcome follows the intent now */
        if (call->intent_recorded)
            gw_call_record_outcome(call);
        gw_call_maybe_free(call);
        return;
    }
    if (call->intent_rc != BASE_OK) {
        refuse(call, GW_API_AUDIT_UNAVAILABLE);
        return;
    }
    gw_call_step(call, "record");
    if (call->decision.effect != POL_ALLOW)
        denied(call);
    else
        gw_call_serve(call);
}

static void on_durable(enum base_code rc, uint64_t seq, void *user) /* on the audit thread */
{
    struct gw_call *call = user;

    call->intent_rc = rc;
    call->intent_seq = seq;
    gw_loop_post(call->loop, on_recorded, call);
}

static void step_record(struct gw_call *call)
{
    struct base_err err = {0};
    enum base_code rc;

    call->holds++;
    rc = gw_call_record_intent(call, on_durable, &err);
    if (rc == BASE_OK)
        return;
    call->holds--;
    if (rc == BASE_TOO_LARGE) { /* waiting would not help: what is escaped is up to six times as long */
        struct gw_api_error error;

        gw_api_fail(&error, GW_API_INVALID_VALUE, "messages",
                    "The messages are too long to be recorded, so they are not sent.");
        gw_call_refuse(call, &error);
        return;
    }
    base_log_err(BASE_LOG_ERROR, "audit.refused", gw_http_request_id(call->http), &err);
    refuse(call, GW_API_AUDIT_UNAVAILABLE);
}

/* ---- serve: routes in order ---- */

static void count_attempt(const struct gw_call *call, const struct gw_backend_event *event)
{
    char labels[160];

    snprintf(labels, sizeof(labels), "backend=\"%s\",reason=\"%s\"", call->route->backend->name,
             event->kind == GW_BACKEND_ERROR ? gw_api_code_name(event->code) : "ok");
    gw_metric_add(GW_M_ATTEMPTS, labels, 1);
}

/* True when another route is being tried. */
static bool try_next(struct gw_call *call)
{
    char labels[120];

    if (call->answer.got_text || call->route_index + 1 >= call->decision.n_routes)
        return false;
    snprintf(labels, sizeof(labels), "backend=\"%s\"", call->route->backend->name);
    gw_metric_add(GW_M_FAILOVER, labels, 1);
    call->route_index++;
    gw_call_serve(call);
    return true;
}

void gw_call_attempt_over(struct gw_call *call, const struct gw_backend_event *event)
{
    if (!call->attempt_open)
        return;
    call->attempt_open = false;
    if (event != NULL) {
        call->usage.prompt_tokens += event->prompt_tokens;
        call->usage.completion_tokens += event->completion_tokens;
    } else {
        call->usage.completion_tokens += call->usage.pieces;
        call->usage.estimated +=
            estimate_prompt(&call->chat); /* else long prompts would be free for who leaves early */
    }
    call->usage.pieces = 0;
}

void gw_call_backend_failed(struct gw_call *call, const struct gw_backend_event *event)
{
    struct gw_api_error error = {.code = event->code, .retry_after_s = event->retry_after_s};

    count_attempt(call, event);
    if (event->err != NULL)
        base_log(BASE_LOG_WARN, "call.backend_failed", "a backend did not answer",
                 LOG_STR("request_id", call->request_id), LOG_STR("backend", call->route->backend->name),
                 LOG_STR("code", gw_api_code_name(event->code)), LOG_STR("detail", event->err->detail));
    gw_call_attempt_over(call, event); /* an attempt that failed has cost, too */
    gw_backend_cancel(call->backend_call);
    call->backend_call = NULL;
    if (event->try_next && try_next(call))
        return;
    if (error.code == GW_API_CONTEXT_LENGTH_EXCEEDED &&
        event->err != NULL) /* the engine's figures, no text */
        gw_api_fail(&error, error.code, "messages", "%s. Shorten the conversation or lower max_tokens.",
                    event->err->detail);
    gw_call_refuse(call, &error);
}

static void on_backend_event(const struct gw_backend_event *event, void *user)
{
    struct gw_call *call = user;

    switch (event->kind) {
    case GW_BACKEND_STARTED: gw_call_answer_started(call); break;
    case GW_BACKEND_TEXT: gw_call_answer_text(call, event->text, event->text_len); break;
    case GW_BACKEND_FINISH:
        count_attempt(call, event);
        gw_call_answer_finish(call, event);
        break;
    case GW_BACKEND_ERROR: gw_call_backend_failed(call, event); break;
    }
}

void gw_call_serve(struct gw_call *call)
{
    struct gw_backend_request request = {
        .loop = call->loop,
        .http_client = call->loop_state->http_client,
        .workers = call->app->workers,
        .chat = &call->chat,
        .max_tokens = call->chat.max_tokens,
        .cache_tag = call->principal.cache_tag,
        .on_event = on_backend_event,
        .user = call,
    };
    struct base_err err = {0};
    enum base_code rc;

    call->route = &call->decision.routes[call->route_index];
    call->attempts++;
    request.upstream_model =
        call->route->upstream_model[0] != '\0' ? call->route->upstream_model : call->chat.model;
    if (call->chat.has_seed)
        request.seed = call->chat.seed;
    else
        base_random(&request.seed, sizeof(request.seed));
    if (call->attempts == 1)
        gw_metric_observe(GW_M_OVERHEAD,
                          call->route->backend->kind == POL_BACKEND_ENGINE ? "route_kind=\"engine\""
                                                                           : "route_kind=\"provider\"",
                          (double)(base_mono_us() - call->arrived_us) / 1e6);
    if (call->route->backend->kind == POL_BACKEND_PROVIDER) {
        char labels[48];

        snprintf(labels, sizeof(labels), "class=\"%s\"", pol_class_name(call->decision.cls));
        gw_metric_add(GW_M_EXTERNAL_REQUESTS, labels, 1);
    }
    gw_call_answer_begin(call);
    rc = gw_backend_submit(gw_runtime_backend(call->runtime, call->route->backend), &request,
                           &call->backend_call, &err);
    if (rc != BASE_OK)
        gw_call_backend_failed(call, &(struct gw_backend_event){.kind = GW_BACKEND_ERROR,
                                                                .code = rc == BASE_FULL
                                                                            ? GW_API_ENGINE_BUSY
                                                                            : GW_API_UPSTREAM_UNAVAILABLE,
                                                                .try_next = true,
                                                                .retry_after_s = 1,
                                                                .err = &err});
    else
        call->attempt_open = true;
}

/* ---- start ---- */

void gw_call_start(struct gw_app *app, struct gw_http *http)
{
    struct gw_call *call = base_zalloc(sizeof(*call));
    struct gw_auth_pending *pending;

    call->app = app;
    call->http = http;
    call->loop = gw_http_loop(http);
    call->loop_state = gw_app_loop(app, call->loop);
    call->arena = base_arena_new(CALL_ARENA_MAX);
    call->arrived_us = call->step_since_us = gw_http_arrived_us(http);
    call->model_label = "other";
    snprintf(call->request_id, sizeof(call->request_id), "%s", gw_http_request_id(http));
    snprintf(call->peer, sizeof(call->peer), "%s", gw_http_peer(http));
    gw_call_answer_init(call);
    atomic_fetch_add(&call->loop_state->calls_in_flight, 1);
    gw_http_on_closed(http, on_closed, call);
    call->holds++; /* on_identified may end and free the call before identify returns */
    call->identifying = true;
    pending = gw_auth_identify(app->auth, http, on_identified, call);
    if (call->identifying)
        call->pending_auth = pending;
    call->holds--;
    gw_call_maybe_free(call);
}

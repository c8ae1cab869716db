/* Call, the answer: guards the text, frames it as a stream or one object, keeps a waiting client's connection alive.
 *
 * Invariants:
 *  1. Every byte of model text passes the guard before it is framed; the first `sent` bytes of `released` are exactly what the client
 *     was sent: of an answer that is not streamed, nothing until all of it goes.
 *  2. A stream ends in one of three ways: finish + [DONE]; an error event and no [DONE]; the connection cut.
 *  3. Errors before the first byte of a stream are ordinary HTTP errors with their own status.
 */
#include "gateway/call_priv.h"

#include "base/clock.h"
#include "gateway/codec_openai.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <string.h>

#define PING_MS     5000u /* promised: at least one line every 10 s */
#define FRAME_MAX   (32u << 20)
#define HEADERS_MAX 16u

void gw_call_answer_init(struct gw_call *call)
{
    base_buf_init(&call->answer.released, AUD_CONTENT_MAX);
    base_buf_init(&call->answer.frame, FRAME_MAX);
    call->answer.created_s = base_wall_us() / 1000000;
}

void gw_call_answer_stop_timers(struct gw_call *call)
{
    gw_timer_stop(call->answer.ping);
    call->answer.ping = NULL;
}

void gw_call_answer_free(struct gw_call *call)
{
    gw_call_answer_stop_timers(call);
    pol_stream_free(call->answer.guard);
    base_buf_free(&call->answer.released);
    base_buf_free(&call->answer.frame);
}

/* ---- headers ---- */

struct header_list {
    struct gw_header items[HEADERS_MAX];
    unsigned n;
    char text[HEADERS_MAX][96];
};

static void add(struct header_list *list, const char *name, const char *value)
{
    snprintf(list->text[list->n], sizeof(list->text[0]), "%s", value);
    list->items[list->n] = (struct gw_header){name, list->text[list->n]};
    list->n++;
}

static void add_number(struct header_list *list, const char *name, uint64_t value, const char *unit)
{
    char text[32];

    snprintf(text, sizeof(text), "%llu%s", (unsigned long long)value, unit);
    add(list, name, text);
}

static void add_limits(const struct gw_call *call, struct header_list *list)
{
    const struct gw_limit_result *limit = &call->limit;

    if (limit->store_away)
        return;
    if (limit->limit_requests > 0) {
        add_number(list, "x-ratelimit-limit-requests", limit->limit_requests, "");
        add_number(list, "x-ratelimit-remaining-requests", limit->remaining_requests, "");
        add_number(list, "x-ratelimit-reset-requests", limit->reset_requests_ms, "ms");
    }
    if (limit->limit_tokens > 0) {
        add_number(list, "x-ratelimit-limit-tokens", limit->limit_tokens, "");
        add_number(list, "x-ratelimit-remaining-tokens", limit->remaining_tokens, "");
        add_number(list, "x-ratelimit-reset-tokens", limit->reset_tokens_ms, "ms");
    }
}

static void add_route(const struct gw_call *call, struct header_list *list)
{
    if (!call->decided)
        return;
    add(list, "x-gatehouse-class", pol_class_name(call->decision.cls));
    if (call->route != NULL) {
        add(list, "x-gatehouse-route", call->route->backend->name);
        add(list, "x-gatehouse-route-kind",
            call->route->backend->kind == POL_BACKEND_ENGINE ? "engine" : "provider");
    }
}

/* ---- writing ---- */

static struct gw_openai_answer head_of(const struct gw_call *call)
{
    return (struct gw_openai_answer){
        .id = call->request_id, .created = call->answer.created_s, .model = call->chat.model};
}

/* Sends what the frame holds. False: the client is gone or too slow; the call has ended. */
static bool flush(struct gw_call *call)
{
    struct gw_answer *answer = &call->answer;
    enum base_code rc =
        answer->frame.failed ? BASE_FULL : gw_http_write(call->http, answer->frame.data, answer->frame.len);

    base_buf_reset(&answer->frame);
    answer->last_write_ms = gw_loop_now_ms(call->loop);
    if (rc == BASE_OK)
        return true;
    if (rc == BASE_FULL) {
        struct gw_http *http = call->http;

        gw_call_end(call, "error", "slow_reader");
        gw_http_abort(http);
    }
    return false; /* cancelled: the closed callback is on its way */
}

/* How many spans of each kind are masked by now: in what was asked, and in the answer so far. */
static void put_masked(const struct gw_call *call, struct base_buf *out)
{
    const struct pol_stream_report *report =
        call->answer.guard != NULL ? pol_stream_report(call->answer.guard) : NULL;
    const struct pol_guard *guard = &call->decision.guard;
    const char *comma = "";

    base_buf_append_char(out, '{');
    for (int d = 1; d < POL_DETECT_COUNT; d++) {
        uint32_t n = guard->input[d] == POL_ACTION_MASK ? call->n_found[d] : 0;

        if (report != NULL && guard->output[d] == POL_ACTION_MASK)
            n += report->found[d];
        if (n == 0)
            continue;
        base_buf_printf(out, "%s\"%s\":%u", comma, pol_detector_name((enum pol_detector)d), n);
        comma = ",";
    }
    base_buf_append_char(out, '}');
}

/* What the page shows beside an answer: class, route and why, what was masked. */
static void put_own_event(struct gw_call *call)
{
    const struct pol_decision *decision = &call->decision;
    struct base_buf *out = &call->answer.frame;

    if (!call->own_events)
        return;
    base_buf_printf(
        out,
        "event: gatehouse\ndata: {\"request_id\":\"%s\",\"class\":\"%s\",\"class_source\":\"%s\",\"model\":",
        call->request_id, pol_class_name(decision->cls), decision->cls_source);
    base_buf_append_json(out, call->chat.model, strlen(call->chat.model));
    base_buf_printf(out, ",\"route\":\"%s\",\"route_kind\":\"%s\",\"reasons\":[", call->route->backend->name,
                    call->route->backend->kind == POL_BACKEND_ENGINE ? "engine" : "provider");
    for (size_t i = 0; i < decision->n_reasons; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        base_buf_append_json(out, decision->reasons[i], strlen(decision->reasons[i]));
    }
    base_buf_append_str(out, "],\"masked\":");
    put_masked(call, out);
    base_buf_append_str(out, "}\n\n");
}

static void begin_stream(struct gw_call *call)
{
    struct header_list list = {0};

    if (call->answer.begun)
        return;
    call->answer.begun = true;
    atomic_fetch_add(&call->loop_state->streams_open, 1);
    add(&list, "content-type", "text/event-stream; charset=utf-8");
    add(&list, "x-accel-buffering", "no");
    add_limits(call, &list);
    add_route(call, &list);
    gw_http_begin(call->http, 200, list.items, list.n);
    put_own_event(call);
}

static void on_ping(void *user)
{
    struct gw_call *call = user;

    call->answer.ping = gw_timer_start(call->loop, PING_MS, on_ping, call);
    if (call->answer.begun && gw_loop_now_ms(call->loop) - call->answer.last_write_ms < PING_MS / 2)
        return;
    begin_stream(call);
    base_buf_append_str(&call->answer.frame, ": waiting\n\n");
    flush(call); /* may end the call: nothing after this */
}

void gw_call_answer_begin(struct gw_call *call)
{
    struct gw_answer *answer = &call->answer;

    pol_stream_free(answer->guard);
    answer->guard =
        pol_stream_new(gw_runtime_policy(call->runtime), call->loop_state->scratch, &call->decision.guard);
    if (call->chat.stream && answer->ping == NULL)
        answer->ping = gw_timer_start(call->loop, PING_MS, on_ping, call);
}

void gw_call_answer_started(struct gw_call *call)
{
    if (!call->chat.stream)
        return;
    if (call->answer.begun && call->own_events)
        put_own_event(
            call); /* the stream began while waiting, perhaps with another route: say which it is now */
    begin_stream(call);
    if (call->answer.frame.len > 0)
        flush(call);
}

/* ---- text ---- */

/* Sends what of `released` has not been sent. False: the call has ended. */
static bool emit(struct gw_call *call)
{
    struct gw_answer *answer = &call->answer;
    struct gw_openai_answer head = head_of(call);
    size_t from = answer->sent;

    if (answer->released.len == from)
        return true;
    if (answer->first_text_us == 0) {
        char labels[160];

        answer->first_text_us = base_mono_us();
        snprintf(labels, sizeof(labels), "model=\"%s\",route_kind=\"%s\"", call->model_label,
                 call->route->backend->kind == POL_BACKEND_ENGINE ? "engine" : "provider");
        gw_metric_observe(GW_M_TTFT, labels, (double)(answer->first_text_us - call->arrived_us) / 1e6);
    }
    if (!call->chat.stream)
        return true;
    begin_stream(call);
    gw_openai_put_delta(&answer->frame, &head, !answer->first_delta_sent, answer->released.data + from,
                        answer->released.len - from, call->chat.include_usage);
    answer->first_delta_sent = true;
    if (!flush(call))
        return false;
    answer->sent = answer->released.len;
    return true;
}

/* A good answer at once. */
static void finish_whole(struct gw_call *call, const char *finish_reason)
{
    struct gw_answer *answer = &call->answer;
    struct gw_openai_answer head = head_of(call);
    struct gw_http *http = call->http;
    struct header_list list = {0};

    gw_openai_put_completion(&answer->frame, &head,
                             answer->released.data != NULL ? answer->released.data : "", answer->released.len,
                             finish_reason, call->usage.prompt_tokens, call->usage.completion_tokens);
    if (answer->frame.failed) { /* escaped, it is longer than an answer may be: never half an object */
        gw_call_refuse(call, &(struct gw_api_error){.code = GW_API_UPSTREAM_BROKEN});
        return;
    }
    call->finish_reason = finish_reason;
    answer->sent = answer->released.len;
    add(&list, "content-type", "application/json");
    add_limits(call, &list);
    add_route(call, &list);
    gw_call_end(call, answer->blocked ? "blocked" : "ok", NULL);
    gw_http_send(http, 200, list.items, list.n, answer->frame.data, answer->frame.len);
}

/* The last bytes of a good answer. */
static void finish(struct gw_call *call, const char *finish_reason)
{
    struct gw_answer *answer = &call->answer;
    struct gw_openai_answer head = head_of(call);
    struct gw_http *http = call->http;

    if (!call->chat.stream) {
        finish_whole(call, finish_reason);
        return;
    }
    call->finish_reason = finish_reason;
    begin_stream(call);
    if (!answer->first_delta_sent) /* an empty answer is still one */
        gw_openai_put_delta(&answer->frame, &head, true, "", 0, call->chat.include_usage);
    gw_openai_put_finish(&answer->frame, &head, finish_reason, call->chat.include_usage);
    if (call->chat.include_usage)
        gw_openai_put_usage(&answer->frame, &head, call->usage.prompt_tokens, call->usage.completion_tokens);
    put_own_event(call);
    base_buf_append_str(&answer->frame, "data: [DONE]\n\n");
    if (!flush(call))
        return;
    gw_call_end(call, answer->blocked ? "blocked" : "ok", NULL);
    gw_http_end(http);
}

static void count_guard(const struct gw_call *call)
{
    const struct pol_stream_report *report = pol_stream_report(call->answer.guard);
    char labels[120];

    for (int d = 1; d < POL_DETECT_COUNT; d++) {
        if (report->found[d] == 0)
            continue;
        snprintf(labels, sizeof(labels), "direction=\"out\",rule=\"%s\",action=\"%s\"",
                 pol_detector_name((enum pol_detector)d), pol_action_name(call->decision.guard.output[d]));
        gw_metric_add(GW_M_GUARD_DECISIONS, labels, report->found[d]);
    }
}

static void stop_backend(struct gw_call *call)
{
    gw_call_attempt_over(call, NULL);
    gw_backend_cancel(call->backend_call);
    call->backend_call = NULL;
}

/* The guard stopped the answer: the source is stopped at once, the client is told in OpenAI's own term. */
static void blocked(struct gw_call *call)
{
    stop_backend(call);
    call->answer.blocked = true;
    count_guard(call);
    finish(call, "content_filter");
}

void gw_call_answer_text(struct gw_call *call, const char *text, size_t len)
{
    struct gw_answer *answer = &call->answer;
    enum base_code rc;

    answer->got_text = true;
    call->usage.pieces++;
    rc = pol_stream_push(answer->guard, text, len, &answer->released);
    if (rc == BASE_OK) {
        emit(call);
        return;
    }
    if (rc == BASE_DENIED) {
        if (emit(call))
            blocked(call);
        return;
    }
    stop_backend(call); /* longer than an answer may be */
    finish(call, "length");
}

void gw_call_answer_finish(struct gw_call *call, const struct gw_backend_event *event)
{
    enum base_code rc = pol_stream_finish(call->answer.guard, &call->answer.released);

    gw_call_attempt_over(call, event);
    if (rc != BASE_OK && rc != BASE_DENIED) { /* longer than an answer may be */
        finish(call, "length");
        return;
    }
    if (!emit(call))
        return;
    if (rc == BASE_DENIED) {
        blocked(call);
        return;
    }
    count_guard(call);
    finish(call, event->finish_reason);
}

/* ---- errors ---- */

void gw_send_error(struct gw_http *http, const struct gw_api_error *error)
{
    auto_buf struct base_buf body = BASE_BUF_INIT(4096);
    struct header_list list = {0};

    add(&list, "content-type", "application/json");
    if (error->retry_after_s > 0)
        add_number(&list, "retry-after", error->retry_after_s, "");
    if (error->allow != NULL)
        add(&list, "allow", error->allow);
    if (error->code == GW_API_INVALID_TOKEN) /* RFC 6750 section 3.1 */
        add(&list, "www-authenticate", "Bearer realm=\"gatehouse\", error=\"invalid_token\"");
    else if (error->code == GW_API_INVALID_DPOP_PROOF) /* RFC 9449 section 7.1 */
        add(&list, "www-authenticate", "DPoP error=\"invalid_dpop_proof\", algs=\"ES256 ES384 PS256 EdDSA\"");
    else if (gw_api_status(error->code) == 401)
        add(&list, "www-authenticate", "Bearer realm=\"gatehouse\"");
    gw_api_error_json(error, &body);
    gw_http_send(http, gw_api_status(error->code), list.items, list.n, body.data, body.len);
}

static void send_error_with_limits(struct gw_call *call, const struct gw_api_error *error)
{
    auto_buf struct base_buf body = BASE_BUF_INIT(4096);
    struct header_list list = {0};

    add(&list, "content-type", "application/json");
    if (error->retry_after_s > 0)
        add_number(&list, "retry-after", error->retry_after_s, "");
    add_limits(call, &list);
    add_route(call, &list);
    gw_api_error_json(error, &body);
    gw_http_send(call->http, gw_api_status(error->code), list.items, list.n, body.data, body.len);
}

void gw_call_answer_error(struct gw_call *call, const struct gw_api_error *error)
{
    struct base_buf *frame = &call->answer.frame;
    struct gw_http *http = call->http;

    if (!call->answer.begun) {
        if (call->limit.limit_requests > 0 || call->decided)
            send_error_with_limits(call, error);
        else
            gw_send_error(http, error);
        return;
    }
    base_buf_reset(frame);
    base_buf_append_str(frame, "data: ");
    gw_api_error_json(error, frame);
    base_buf_append_str(frame, "\n\n"); /* no [DONE]: a broken answer never looks whole */
    if (gw_http_write(http, frame->data, frame->len) == BASE_OK)
        gw_http_end(http);
    else
        gw_http_abort(http);
}

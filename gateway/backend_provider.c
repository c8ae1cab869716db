/* Backend, external: an OpenAI-compatible provider over the loop's HTTP client. See backend.h.
 *
 * States: SENT -> (first chunk) STREAMING -> ENDED. Invariants:
 *  1. Exactly one FINISH or ERROR is reported, then nothing.
 *  2. Only a stream that said finish_reason (or [DONE] after it) finishes; one that just stops is GW_API_UPSTREAM_BROKEN.
 *  3. The provider's own error text is never handed on: it may quote the prompt.
 */
#include "gateway/backend_priv.h"

#include "base/mem.h"
#include "gateway/codec_openai.h"
#include "gateway/http_client.h"
#include "gateway/sse.h"

#include <stdio.h>
#include <string.h>

#define ANSWER_BYTES_MAX  (64u << 20) /* of one answer's stream, framing included */
#define REQUEST_BYTES_MAX (64u << 20)

struct provider_call {
    struct gw_backend_call base;
    struct gw_backend *backend;
    struct gw_http_request *http; /* NULL once it has ended */
    struct gw_sse sse;
    struct gw_openai_chunk chunk;
    gw_backend_event_fn *on_event;
    void *user;
    char finish_reason[24];
    bool started, done_marker, ended;
    bool reporting, cancelled; /* cancel from inside an event waits for the event to return */
    bool upstream_error;
    uint64_t prompt_tokens, completion_tokens, pieces;
    size_t received;
    bool has_usage;
};

static void call_free(struct provider_call *call)
{
    gw_http_request_cancel(call->http);
    gw_sse_free(&call->sse);
    base_buf_free(&call->chunk.text);
    gw_backend_unref(call->backend);
    free(call);
}

static void provider_cancel(struct gw_backend_call *base)
{
    struct provider_call *call = (struct provider_call *)base;

    call->cancelled = true;
    if (!call->reporting)
        call_free(call);
}

/* False: the owner cancelled meanwhile; the caller returns at once up to where the call can be freed. */
static bool report(struct provider_call *call, struct gw_backend_event *event)
{
    if (call->cancelled || call->ended)
        return false;
    call->ended = event->kind == GW_BACKEND_ERROR || event->kind == GW_BACKEND_FINISH;
    event->prompt_tokens = call->prompt_tokens;
    event->completion_tokens = call->has_usage ? call->completion_tokens : call->pieces;
    event->counted = call->has_usage;
    call->on_event(event, call->user);
    return !call->cancelled;
}

/* One event of the provider's stream. */
static enum base_code on_sse(const char *data, size_t len, void *user)
{
    struct provider_call *call = user;
    struct gw_backend_event event = {.kind = GW_BACKEND_STARTED};
    struct base_err err = {0};
    enum base_code rc;

    if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
        call->done_marker = true;
        return BASE_OK;
    }
    base_buf_reset(&call->chunk.text);
    rc = gw_openai_parse_chunk(&call->chunk, data, len, &err);
    if (rc != BASE_OK)
        return rc;
    if (call->chunk.is_error) {
        call->upstream_error = true;
        return BASE_INVALID;
    }
    if (!call->started) {
        call->started = true;
        if (!report(call, &event))
            return BASE_CANCELLED;
    }
    if (call->chunk.has_usage) {
        call->has_usage = true;
        call->prompt_tokens = call->chunk.prompt_tokens;
        call->completion_tokens = call->chunk.completion_tokens;
    }
    if (call->chunk.finish_reason[0] != '\0')
        snprintf(call->finish_reason, sizeof(call->finish_reason), "%s", call->chunk.finish_reason);
    if (call->chunk.text.len == 0)
        return BASE_OK;
    call->pieces++;
    event = (struct gw_backend_event){
        .kind = GW_BACKEND_TEXT, .text = call->chunk.text.data, .text_len = call->chunk.text.len};
    return report(call, &event) ? BASE_OK : BASE_CANCELLED;
}

static enum base_code on_data(const char *bytes, size_t n, void *user)
{
    struct provider_call *call = user;
    enum base_code rc;

    if (n > ANSWER_BYTES_MAX - call->received)
        return BASE_TOO_LARGE;
    call->received += n;
    call->reporting = true; /* the call may be cancelled inside; the HTTP client ends it when we say so */
    rc = gw_sse_push(&call->sse, bytes, n, on_sse, call);
    call->reporting = false;
    return call->cancelled ? BASE_CANCELLED : rc;
}

/* Only reasons that OpenAI names reach a client. */
static const char *known_finish(const char *reason)
{
    if (strcmp(reason, "length") == 0)
        return "length";
    if (strcmp(reason, "content_filter") == 0)
        return "content_filter";
    return "stop";
}

static void error_event(const struct provider_call *call, enum base_code rc, int status,
                        struct gw_backend_event *event)
{
    event->kind = GW_BACKEND_ERROR;
    event->try_next = !call->started;
    if (rc == BASE_TIMEOUT)
        event->code = GW_API_UPSTREAM_TIMEOUT;
    else if (rc == BASE_UNAVAILABLE)
        event->code = GW_API_UPSTREAM_UNAVAILABLE;
    else if (rc != BASE_OK || (status >= 200 && status <= 299))
        event->code = GW_API_UPSTREAM_BROKEN;
    else if (status == 429 || status >= 500)
        event->code = GW_API_UPSTREAM_UNAVAILABLE;
    else
        event->code =
            GW_API_UPSTREAM_REFUSED; /* 4xx: our key or request is wrong there; another route may still do */
}

static void on_done(enum base_code rc, int status, unsigned retry_after_s, const struct base_err *http_err,
                    void *user)
{
    struct provider_call *call = user;
    bool whole =
        rc == BASE_OK && status >= 200 && status <= 299 && call->started && call->finish_reason[0] != '\0';
    struct gw_backend_event event = {.kind = GW_BACKEND_FINISH, .retry_after_s = retry_after_s};
    struct base_err err = {0};

    call->http = NULL;
    if (call->cancelled) { /* inside on_data */
        call_free(call);
        return;
    }
    if (whole) {
        event.finish_reason = known_finish(call->finish_reason);
    } else {
        error_event(call, rc, status, &event);
        base_fail(&err, rc != BASE_OK ? rc : BASE_UNAVAILABLE, 0, "provider %s: status %d%s%s%s%s",
                  call->backend->name, status, call->upstream_error ? ", error event " : "",
                  call->upstream_error ? call->chunk.error_code : "", rc != BASE_OK ? ", " : "",
                  rc != BASE_OK ? http_err->detail : "");
        event.err = &err;
    }
    call->reporting = true;
    report(call, &event);
    call->reporting = false;
    if (call->cancelled)
        call_free(call);
}

enum base_code gw_provider_submit(struct gw_backend *backend, const struct gw_backend_request *request,
                                  struct gw_backend_call **ret_call, struct base_err *err)
{
    auto_buf struct base_buf body = BASE_BUF_INIT(REQUEST_BYTES_MAX);
    struct provider_call *call;
    enum base_code rc =
        gw_openai_encode_request(request->chat, request->upstream_model, request->max_tokens, &body);

    if (rc != BASE_OK)
        return base_fail(err, rc, 0, "request for provider %s is too large", backend->name);
    call = base_zalloc(sizeof(*call));
    call->base.cancel = provider_cancel;
    call->backend = gw_backend_ref(backend);
    call->on_event = request->on_event;
    call->user = request->user;
    gw_sse_init(&call->sse);
    base_buf_init(&call->chunk.text, GW_CHUNK_TEXT_MAX);
    rc = gw_http_request_start(request->http_client,
                               &(struct gw_http_request_options){
                                   .url = backend->url,
                                   .body = body.data,
                                   .body_len = body.len,
                                   .bearer = backend->api_key,
                                   .ca_file = backend->ca_file,
                                   .accept = "text/event-stream",
                                   .connect_timeout_ms = backend->connect_timeout_ms,
                                   .first_byte_timeout_ms = backend->first_byte_timeout_ms,
                                   .idle_timeout_ms = backend->idle_timeout_ms,
                                   .total_timeout_ms = backend->total_timeout_ms,
                                   .on_data = on_data,
                                   .on_done = on_done,
                                   .user = call,
                               },
                               &call->http, err);
    if (rc != BASE_OK) {
        call_free(call);
        return rc;
    }
    *ret_call = &call->base;
    return BASE_OK;
}

/* Call, the record: intent before anything leaves, outcome when it is over, and what follows from it (limits, metrics, one log line). */
#include "gateway/call_priv.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/codec_openai.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <string.h>

#define API "chat.completions"

static const char *route_kind(const struct gw_call *call)
{
    if (call->route == NULL)
        return "none";
    return call->route->backend->kind == POL_BACKEND_ENGINE ? "engine" : "provider";
}

/* "card:mask=1,email:tag=2" */
static void guard_text(const struct gw_call *call, char *out, size_t size)
{
    const struct pol_stream_report *report =
        call->answer.guard != NULL ? pol_stream_report(call->answer.guard) : NULL;
    size_t used = 0;

    out[0] = '\0';
    for (int d = 1; d < POL_DETECT_COUNT && used < size; d++) {
        const char *name = pol_detector_name((enum pol_detector)d);

        if (call->n_found[d] > 0)
            used += (size_t)snprintf(out + used, size - used, "%sin:%s:%s=%u", used > 0 ? "," : "", name,
                                     pol_action_name(call->decision.guard.input[d]), call->n_found[d]);
        if (used < size && report != NULL && report->found[d] > 0)
            used += (size_t)snprintf(out + used, size - used, "%sout:%s:%s=%u", used > 0 ? "," : "", name,
                                     pol_action_name(call->decision.guard.output[d]), report->found[d]);
    }
}

static void roles_text(const struct gw_call *call, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < call->principal.n_roles && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i > 0 ? "," : "", call->principal.roles[i]);
}

/* What intent and outcome have in common. */
static void fill(const struct gw_call *call, struct aud_record *record, char roles[AUD_TEXT_MAX],
                 char guard[AUD_TEXT_MAX])
{
    const struct pol_decision *decision = &call->decision;
    const struct pol_route *route = call->route;

    if (route == NULL && decision->effect == POL_ALLOW)
        route = &decision->routes[0];
    roles_text(call, roles, AUD_TEXT_MAX);
    guard_text(call, guard, AUD_TEXT_MAX);
    *record = (struct aud_record){
        .request_id = call->request_id,
        .issuer = call->principal.issuer,
        .subject = call->principal.subject,
        .auth_method = gw_auth_method_name(call->principal.method),
        .credential_id = call->principal.credential_id,
        .tenant = call->principal.tenant,
        .roles = roles,
        .api = API,
        .peer = call->peer,
        .model_asked = call->chat.model,
        .route = route != NULL ? route->backend->name : NULL,
        .route_kind = route == NULL                                ? NULL
                      : route->backend->kind == POL_BACKEND_ENGINE ? "engine"
                                                                   : "provider",
        .upstream_model = route != NULL ? route->upstream_model : NULL,
        .policy_hash = pol_hash(gw_runtime_policy(call->runtime)),
        .cls = pol_class_name(decision->cls),
        .cls_source = decision->cls_source,
        .decision = decision->effect == POL_ALLOW ? "allow" : "deny",
        .guard = guard,
        .max_tokens = call->chat.max_tokens,
    };
    record->n_reasons =
        (unsigned)(decision->n_reasons < AUD_REASONS_MAX ? decision->n_reasons : AUD_REASONS_MAX);
    for (unsigned i = 0; i < record->n_reasons; i++)
        record->reasons[i] = decision->reasons[i];
}

enum base_code gw_call_record_intent(struct gw_call *call, aud_durable_fn *on_durable, struct base_err *err)
{
    auto_buf struct base_buf content = BASE_BUF_INIT(AUD_CONTENT_MAX);
    char roles[AUD_TEXT_MAX], guard[AUD_TEXT_MAX];
    struct aud_record record;
    enum base_code rc;

    fill(call, &record, roles, guard);
    record.kind = AUD_INTENT;
    if (call->decision.effect == POL_ALLOW) { /* what was refused is not kept: it never went anywhere */
        rc = gw_openai_encode_texts(&call->chat, &content);
        if (rc != BASE_OK)
            return base_fail(err, rc, 0, "the messages are too long to be recorded");
        record.content = content.data;
        record.content_len = content.len;
    }
    return aud_append(call->app->audit, &record, on_durable, call, err);
}

void gw_call_record_outcome(struct gw_call *call)
{
    const struct gw_answer *answer = &call->answer;
    char roles[AUD_TEXT_MAX], guard[AUD_TEXT_MAX];
    struct base_err err = {0};
    struct aud_record record;

    if (call->app->audit == NULL) /* the process ends: an intent without its outcome says just that */
        return;
    fill(call, &record, roles, guard);
    record.kind = AUD_OUTCOME;
    record.status = call->status;
    record.error_code = call->error_code;
    record.finish_reason = call->finish_reason;
    record.attempts = call->attempts;
    record.prompt_tokens = call->usage.prompt_tokens;
    record.completion_tokens = call->usage.completion_tokens;
    record.released_bytes = answer->sent;
    record.ttft_us = answer->first_text_us > 0 ? answer->first_text_us - call->arrived_us : 0;
    record.duration_us = base_mono_us() - call->arrived_us;
    if (answer->sent > 0) {
        record.content = answer->released.data;
        record.content_len = answer->sent;
    }
    if (aud_append(call->app->audit, &record, NULL, NULL, &err) != BASE_OK)
        base_log_err(BASE_LOG_ERROR, "audit.outcome_lost", call->request_id,
                     &err); /* the intent stands without its outcome */
}

static void count(const struct gw_call *call)
{
    char labels[320];

    snprintf(labels, sizeof(labels), "api=\"%s\",model=\"%s\",route_kind=\"%s\",class=\"%s\",code=\"%s\"",
             API, call->model_label, route_kind(call),
             call->decided ? pol_class_name(call->decision.cls) : "none",
             call->error_code != NULL ? call->error_code : call->status);
    gw_metric_add(GW_M_REQUESTS, labels, 1);
    snprintf(labels, sizeof(labels), "api=\"%s\",route_kind=\"%s\"", API, route_kind(call));
    gw_metric_observe(GW_M_REQUEST_DURATION, labels, (double)(base_mono_us() - call->arrived_us) / 1e6);
    if (call->route == NULL)
        return;
    snprintf(labels, sizeof(labels), "model=\"%s\",route_kind=\"%s\",type=\"input\"", call->model_label,
             route_kind(call));
    gw_metric_add(GW_M_TOKENS, labels, call->usage.prompt_tokens);
    snprintf(labels, sizeof(labels), "model=\"%s\",route_kind=\"%s\",type=\"output\"", call->model_label,
             route_kind(call));
    gw_metric_add(GW_M_TOKENS, labels, call->usage.completion_tokens);
}

static void log_line(const struct gw_call *call)
{
    uint64_t seq = call->intent_recorded ? call->intent_seq : 0; /* until then it is the audit thread's */

    base_log(BASE_LOG_INFO, "call", call->status, LOG_STR("request_id", call->request_id),
             LOG_STR("principal", call->pseudonym),
             LOG_STR("auth_method", gw_auth_method_name(call->principal.method)),
             LOG_STR("key_id", call->principal.credential_id), LOG_STR("api", API),
             LOG_STR("model", call->model_label),
             LOG_STR("backend", call->route != NULL ? call->route->backend->name : ""),
             LOG_STR("route_kind", route_kind(call)),
             LOG_STR("class", call->decided ? pol_class_name(call->decision.cls) : ""),
             LOG_STR("error_code", call->error_code != NULL ? call->error_code : ""),
             LOG_INT("attempts", call->attempts), LOG_INT("in_tokens", call->usage.prompt_tokens),
             LOG_INT("out_tokens", call->usage.completion_tokens),
             LOG_INT("released_bytes", call->answer.sent),
             LOG_INT("ttft_us",
                     call->answer.first_text_us > 0 ? call->answer.first_text_us - call->arrived_us : 0),
             LOG_INT("total_us", base_mono_us() - call->arrived_us), LOG_INT("audit_seq", seq));
}

void gw_call_end(struct gw_call *call, const char *status, const char *error_code)
{
    if (call->done)
        return;
    call->done = true;
    gw_live_remove(call->app->live, &call->live);
    call->status = status;
    call->error_code = error_code;
    gw_call_attempt_over(call, NULL);
    gw_backend_cancel(call->backend_call);
    call->backend_call = NULL;
    gw_call_answer_stop_timers(call);
    if (call->answer.begun)
        atomic_fetch_sub(&call->loop_state->streams_open, 1);
    gw_limits_settle(call->ticket,
                     call->usage.prompt_tokens + call->usage.completion_tokens + call->usage.estimated);
    call->ticket = NULL;
    if (call->intent_recorded)
        gw_call_record_outcome(call);
    if (call->route != NULL)
        gw_call_step(call, "serve");
    count(call);
    log_line(call);
}

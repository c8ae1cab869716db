/* API errors: the table. See api_error.h. */
#include "gateway/api_error.h"

#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct row {
    int status;
    const char *name, *type, *sentence;
};

#define INVALID "invalid_request_error"

static const struct row rows[GW_API_COUNT] = {
    [GW_API_INTERNAL] = {500, "internal_error", "server_error",
                         "Something went wrong in the gateway. Try again; if it stays, give your "
                         "administrator the request id."},
    [GW_API_INVALID_JSON] = {400, "invalid_json", INVALID, "The body is not valid JSON."},
    [GW_API_INVALID_VALUE] = {400, "invalid_value", INVALID, "A field has a value that is not allowed."},
    [GW_API_MISSING_FIELD] = {400, "missing_field", INVALID, "A required field is missing."},
    [GW_API_UNKNOWN_FIELD] = {400, "unknown_field", INVALID,
                              "The request has a field that this gateway does not know. Remove it."},
    [GW_API_UNSUPPORTED_FIELD] =
        {400, "unsupported_field", INVALID,
         "The request uses a feature that this gateway does not offer yet. Remove it."},
    [GW_API_NOT_FOUND] = {404, "not_found", INVALID, "There is nothing at this path. The API begins at /v1."},
    [GW_API_METHOD_NOT_ALLOWED] = {405, "method_not_allowed", INVALID,
                                   "This path does not take this method."},
    [GW_API_MISSING_CREDENTIALS] =
        {401, "missing_credentials", "authentication_error",
         "No credentials were sent. Send your API key as 'Authorization: Bearer KEY', or sign in."},
    [GW_API_INVALID_API_KEY] = {401, "invalid_api_key", "authentication_error",
                                "The API key is not valid. Check that it was copied whole, or ask your "
                                "administrator for a new one."},
    [GW_API_EXPIRED_API_KEY] = {401, "expired_api_key", "authentication_error",
                                "The API key has expired. Ask your administrator for a new one."},
    [GW_API_REVOKED_API_KEY] = {401, "revoked_api_key", "authentication_error",
                                "The API key has been revoked. Ask your administrator for a new one."},
    [GW_API_SESSION_ENDED] = {401, "session_ended", "authentication_error",
                              "Your session has ended. Sign in again."},
    [GW_API_SESSION_STALE] = {401, "session_stale", "authentication_error",
                              "Your session must be refreshed: POST /auth/refresh, then try again."},
    [GW_API_INVALID_TOKEN] = {401, "invalid_token", "authentication_error",
                              "The access token is not valid here, or it has ended. Get a new one from your "
                              "organisation's identity provider."},
    [GW_API_INVALID_DPOP_PROOF] = {401, "invalid_dpop_proof", "authentication_error",
                                   "The DPoP proof does not hold for this token and this request. Make a new "
                                   "one for each request."},
    [GW_API_CSRF_FAILED] =
        {403, "csrf_failed", "permission_error",
         "The request did not come from the gateway's own page. Reload the page and try again."},
    [GW_API_ADMIN_REQUIRED] = {403, "admin_required", "permission_error",
                               "Only an administrator may do this: the role \"admin\" is needed."},
    [GW_API_IDENTITY_UNAVAILABLE] = {503, "identity_unavailable", "server_error",
                                     "Your identity cannot be checked right now. Try again in a moment."},
    [GW_API_RATE_LIMIT_REQUESTS] = {429, "rate_limit_exceeded", "requests",
                                    "Too many requests. Wait for the time in Retry-After."},
    [GW_API_RATE_LIMIT_TOKENS] =
        {429, "rate_limit_exceeded", "tokens",
         "Too many tokens. Wait for the time in Retry-After, or ask for fewer with max_tokens."},
    [GW_API_REQUEST_TOO_LARGE_FOR_LIMIT] = {429, "request_too_large_for_limit", "tokens",
                                            "The request asks for more tokens than your limit ever allows at "
                                            "once. Lower max_tokens or shorten the prompt."},
    [GW_API_LIMITS_UNAVAILABLE] =
        {503, "limits_unavailable", "server_error",
         "Your limits cannot be checked right now, and policy says to refuse then. Try again in a moment."},
    [GW_API_MODEL_NOT_FOUND] = {404, "model_not_found", INVALID,
                                "There is no such model for you. GET /v1/models lists those you may use."},
    [GW_API_NO_ROLE] = {403, "no_role", "permission_error",
                        "You have no role here that may use a model. Ask your administrator."},
    [GW_API_CLASS_UNKNOWN] = {400, "class_unknown", INVALID,
                              "X-Data-Class must be one of public, internal, confidential, secret."},
    [GW_API_CLASS_TOO_HIGH] =
        {403, "class_too_high", "permission_error",
         "The data of this request is classified too high for this model or for your role."},
    [GW_API_CONTENT_BLOCKED] =
        {403, "content_blocked", "permission_error",
         "The request holds something that policy does not let through. Remove it and try again."},
    [GW_API_CONTEXT_LENGTH_EXCEEDED] = {400, "context_length_exceeded", INVALID,
                                        "The prompt and max_tokens do not fit the model's context. Shorten "
                                        "the conversation or lower max_tokens."},
    [GW_API_AUDIT_UNAVAILABLE] = {503, "audit_unavailable", "server_error",
                                  "The request could not be recorded, so it was not sent. Try again in a "
                                  "moment; if it stays, tell your administrator."},
    [GW_API_ENGINE_BUSY] = {503, "engine_busy", "server_error",
                            "The model is busy and its queue is full. Try again in a moment."},
    [GW_API_UPSTREAM_UNAVAILABLE] =
        {503, "upstream_unavailable", "server_error",
         "No place that may answer this request can be reached right now. Try again in a moment."},
    [GW_API_UPSTREAM_TIMEOUT] = {504, "upstream_timeout", "server_error",
                                 "The model took too long to answer. Try again."},
    [GW_API_UPSTREAM_BROKEN] = {502, "upstream_broken", "server_error",
                                "The answer broke off. What was sent is incomplete; try again."},
    [GW_API_UPSTREAM_REFUSED] =
        {502, "upstream_refused", "server_error",
         "The provider refused the request. If it stays, give your administrator the request id."},
    [GW_API_SLOW_READER] = {500, "slow_reader", "server_error", "The answer was not read fast enough."},
    [GW_API_SHUTTING_DOWN] = {503, "shutting_down", "server_error",
                              "This gateway is shutting down. Try again: another one will answer."},
};

static const struct row *row_of(enum gw_api_code code)
{
    return &rows[(unsigned)code < GW_API_COUNT ? code : GW_API_INTERNAL];
}

int gw_api_status(enum gw_api_code code)
{
    return row_of(code)->status;
}

const char *gw_api_code_name(enum gw_api_code code)
{
    return row_of(code)->name;
}

enum base_code gw_api_error_json(const struct gw_api_error *error, struct base_buf *out)
{
    const struct row *row = row_of(error->code);
    const char *message = error->message[0] != '\0' ? error->message : row->sentence;

    base_buf_append_str(out, "{\"error\":{\"message\":");
    base_buf_append_json(out, message, strlen(message));
    base_buf_printf(out, ",\"type\":\"%s\",\"param\":", row->type);
    if (error->param[0] != '\0')
        base_buf_append_json(out, error->param, strlen(error->param));
    else
        base_buf_append_str(out, "null");
    base_buf_printf(out, ",\"code\":\"%s\"}}", row->name);
    return out->failed ? BASE_TOO_LARGE : BASE_OK;
}

void gw_api_fail(struct gw_api_error *error, enum gw_api_code code, const char *param, const char *fmt, ...)
{
    va_list args;

    *error = (struct gw_api_error){.code = code};
    if (param != NULL) { /* may be a client's word: cut between characters */
        snprintf(error->param, sizeof(error->param), "%s", param);
        error->param[base_utf8_complete(error->param, strlen(error->param))] = '\0';
    }
    if (fmt != NULL) {
        va_start(args, fmt);
        vsnprintf(error->message, sizeof(error->message), fmt, args);
        va_end(args);
    }
}

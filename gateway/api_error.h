/* API errors: every refusal that a client can see, each with its stable code, status, OpenAI type and sentence. One table, so that
 * docs/api.md and the tests list the same.
 */
#ifndef GATEWAY_API_ERROR_H
#define GATEWAY_API_ERROR_H

#include "base/buf.h"

enum gw_api_code {
    GW_API_INTERNAL = 0,
    GW_API_INVALID_JSON,
    GW_API_INVALID_VALUE,
    GW_API_MISSING_FIELD,
    GW_API_UNKNOWN_FIELD,
    GW_API_UNSUPPORTED_FIELD,
    GW_API_NOT_FOUND,
    GW_API_METHOD_NOT_ALLOWED,
    GW_API_MISSING_CREDENTIALS,
    GW_API_INVALID_API_KEY,
    GW_API_EXPIRED_API_KEY,
    GW_API_REVOKED_API_KEY,
    GW_API_SESSION_ENDED,
    GW_API_SESSION_STALE,
    GW_API_INVALID_TOKEN,
    GW_API_INVALID_DPOP_PROOF,
    GW_API_CSRF_FAILED,
    GW_API_ADMIN_REQUIRED,
    GW_API_IDENTITY_UNAVAILABLE,
    GW_API_RATE_LIMIT_REQUESTS,
    GW_API_RATE_LIMIT_TOKENS,
    GW_API_REQUEST_TOO_LARGE_FOR_LIMIT,
    GW_API_LIMITS_UNAVAILABLE,
    GW_API_MODEL_NOT_FOUND,
    GW_API_NO_ROLE,
    GW_API_CLASS_UNKNOWN,
    GW_API_CLASS_TOO_HIGH,
    GW_API_CONTENT_BLOCKED,
    GW_API_CONTEXT_LENGTH_EXCEEDED,
    GW_API_AUDIT_UNAVAILABLE,
    GW_API_ENGINE_BUSY,
    GW_API_UPSTREAM_UNAVAILABLE,
    GW_API_UPSTREAM_TIMEOUT,
    GW_API_UPSTREAM_BROKEN,
    GW_API_UPSTREAM_REFUSED,
    GW_API_SLOW_READER,
    GW_API_SHUTTING_DOWN,
    GW_API_COUNT
};

/* A refusal with what varies: the sentence may carry a field's name or figures, never text from a prompt. */
struct gw_api_error {
    enum gw_api_code code;
    char param[64];         /* "" is sent as null */
    char message[384];      /* "" takes the table's sentence */
    unsigned retry_after_s; /* 0: none */
    const char *allow; /* METHOD_NOT_ALLOWED: the methods that are, for the Allow header (RFC 9110, 15.5.6) */
};

int gw_api_status(enum gw_api_code code);
const char *gw_api_code_name(enum gw_api_code code); /* "model_not_found" */
/* {"error":{"message","type","param","code"}} */
enum base_code gw_api_error_json(const struct gw_api_error *error, struct base_buf *out);
/* Sets the code and formats the message. */
void gw_api_fail(struct gw_api_error *error, enum gw_api_code code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif

/* Codec of the messages to and from gatehouse-sso (sso/proto.h): JSON on one side, structs on the other.
 *
 * Who: any thread; pure but for the key files that the configuration names, which are read here.
 */
#ifndef GATEWAY_CODEC_SSO_H
#define GATEWAY_CODEC_SSO_H

#include "base/arena.h"
#include "base/buf.h"
#include "policy/policy.h"

#define GW_SSO_TEXT_MAX 16384u /* the longest single text of a reply that is kept */

/* The configure request of a policy. Reads secrets, keys, certificates and metadata from the files that it names (size and mode are
 * checked). BASE_NOT_FOUND with *out empty: the policy names no provider. public_url: "https://gate.example.com". */
enum base_code gw_sso_encode_config(struct base_buf *out, const struct pol_snapshot *policy,
                                    const char *public_url, struct base_err *err);

/* A flat request: op and pairs of texts; a NULL value leaves its pair out. ("oidc_finish", "provider", p, "code", c, NULL) */
void gw_sso_encode(struct base_buf *out, const char *op, ...) __attribute__((sentinel));

struct gw_sso_reply {
    bool ok;
    const char *code, *check, *detail; /* not ok; never NULL then */
    const char *url, *xml, *request_id, *kind, *answer_url, *in_response_to;
    /* identity and what belongs to it; NULL when absent */
    const char *issuer, *subject, *sid, *name, *email, *acr, *refresh_token, *id_token, *jti;
    const char *assertion_id, *name_id, *name_id_format, *session_index, *client_id, *provider, *audience;
    /* Unix seconds, 0: absent */
    int64_t auth_time, issued_at, expires_at, assertion_expires_at, session_ends_at;
    bool bound;
    struct pol_claim *claims;
    size_t n_claims;
    const char **session_indexes;
    size_t n_session_indexes;
};
/* Everything lives in the arena. BASE_INVALID: not a reply; nobody is let in by it. */
enum base_code gw_sso_decode(struct gw_sso_reply *ret_reply, struct base_arena *arena, const char *json,
                             size_t len, struct base_err *err);

#endif

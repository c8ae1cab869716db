/* Protocol between the gateway and gatehouse-sso: frames over a socketpair, one JSON object each.
 *
 * What: u32 length of what follows (little endian, 8 + n, at most SSO_FRAME_MAX), u64 id (little endian), n bytes of JSON.
 *       The gateway sends requests with ids that it never uses twice; each gets one reply with the same id, in any order.
 *       gatehouse-sso never speaks first. Whoever breaks the framing is cut: the process is ended and started anew.
 * Who:  both programs; pure, any thread.
 *
 * Requests: {"op": ..., ...}. Times are Unix seconds; absent members are absent, never null.
 *
 *   configure            {"providers": [PROVIDER...]}   the first frame, once: a new configuration is a new process
 *                        -> {"providers": [{"name", "ok", "detail"}]}
 *   oidc_start           {provider, redirect_uri, state, nonce, code_challenge, prompt?, login_hint?} -> {"url"}
 *   oidc_finish          {provider, redirect_uri, code, iss?, code_verifier, nonce} -> IDENTITY
 *   oidc_refresh         {provider, refresh_token, subject, sid?} -> IDENTITY (refresh_token: the next one)
 *   oidc_revoke          {provider, refresh_token} -> {}
 *   oidc_logout_url      {provider, id_token_hint?, post_logout_redirect_uri, state} -> {"url"}   "": the provider has none
 *   oidc_logout_token    {provider, logout_token} -> {issuer, subject?, sid?, jti, expires_at}
 *   bearer               {token, audience (one, or a list of those that the route takes), method, url, dpop?, client_cert_sha256? (base64url)}
 *                        -> IDENTITY + {"provider", "client_id", "scopes": [...], "bound": bool, "audience", "issued_at"?}   bound: needs a proof with every request
 *   saml_start           {provider, acs_url, relay_state} -> {"request_id", "url"}   a redirect, signed if so configured
 *   saml_finish          {provider, acs_url, response (base64), request_id} -> IDENTITY + {assertion_id, assertion_expires_at,
 *                        name_id, name_id_format, session_index?, session_ends_at?}
 *   saml_logout_start    {provider, name_id, name_id_format, session_index?, relay_state} -> {"request_id", "url"}
 *   saml_logout          {provider, binding: "redirect"|"post", message (the query string as it came, or the form's base64), relay_state?,
 *                        slo_url}  -> {"kind": "request", request_id, issuer, name_id, session_indexes: [...], expires_at, "answer_url"}
 *                        or {"kind": "response", "in_response_to"}
 *   saml_metadata        {provider, acs_url, slo_url} -> {"xml"}
 *   check                {provider} -> {"findings": [{"level": "ok"|"warn"|"error", "text"}]}
 *   explain              {text, provider?, audience?, nonce?, request_id?, acs_url?}
 *                        -> {"kind", "provider", "checks": [{"check", "ok", "detail"}]}   goes on after a failed check
 *   stats                {} -> {"providers": [{name, fetches, fetch_failures, verified, refused, keys, keys_age_s}]}
 *   mutate               {"check": NAME|"", "clock_offset_s"?}   test builds (-Dmutations=true) only
 *
 *   PROVIDER  {"name", "kind": "oidc", "issuer", "client_id", "client_secret"?, "token_auth": "basic"|"post"|"none", "scopes": [...],
 *              "algorithms": [...], "max_age_s"?, "acr": [...], "userinfo": bool, "hosts": ["host" or "host:port"...], "ca_pem"?,
 *              "clock_skew_s", "claims": [names to hand on], "subject_claim",
 *              "bearer": {"audiences": [...], "introspection": bool, "require_binding": bool}?}
 *             {"name", "kind": "saml", "metadata_xml", "entity_id" (ours), "key_pem"?, "cert_pem"?, "sign_requests": bool,
 *              "name_claim", "email_claim", "want_signed": "response"|"assertion"|"either", "want_encrypted": bool, "clock_skew_s", "claims": [...], "subject_claim"}
 *             subject_claim: "" for sub and NameID.
 *   IDENTITY  {"issuer", "subject", "sid"?, "name"?, "email"?, "claims": {name: [texts...]}, "auth_time"?, "acr"?, "amr": [...],
 *              "expires_at", "refresh_token"?, "id_token"?}
 *
 * Replies: {"ok": true, ...} or (below); each with "asked": [[provider, KIND, RESULT]...] when providers were asked for it, at most
 *   SSO_ASKED_MAX of them: KIND "discovery"|"jwks"|"token"|"userinfo"|"introspection"|"revocation", RESULT "ok" (status 2xx)|
 *   "refused" (any other below 500)|"error"|"timeout".
 *   {"ok": false, "code": "refused"|"unavailable"|"timeout"|"busy"|"invalid"|"internal", "check": "oidc.audience", "detail": "..."}
 *   refused: what the peer brought does not hold, check names what failed (base/check.h); unavailable, timeout: the provider;
 *   busy: this provider's queue is full; invalid: the request or the configuration. detail is for operators and holds no token, no
 *   code, no secret, no claim's value but those that are names of things (issuer, audience, algorithm, kid).
 */
#ifndef GATEWAY_SSO_PROTO_H
#define GATEWAY_SSO_PROTO_H

#include "base/buf.h"
#include "base/err.h"

#include <stdint.h>

#define SSO_FRAME_MAX    (1u << 20) /* the body: id and JSON */
#define SSO_FRAME_HEADER 12u        /* length and id */
#define SSO_FD           3          /* the socket, in gatehouse-sso */
#define SSO_ASKED_MAX    8u         /* of one reply */

/* What names are resolved with; NULL ends it. The connector can read these very files and no later ones of the same names
 * (sandbox.h): when one is replaced, the gateway starts a new process. */
extern const char *const sso_resolver_files[];

struct sso_frame {
    uint64_t id;
    const char *json; /* borrowed from the reader's bytes; not NUL-terminated */
    size_t len;
};

/* Appends one frame. BASE_TOO_LARGE: nothing is appended. */
enum base_code sso_frame_append(struct base_buf *out, uint64_t id, const char *json, size_t len,
                                struct base_err *err);
/* Takes the first frame of data. BASE_OK: *ret_used bytes are done with. BASE_NOT_FOUND: more is needed, the first
 * *ret_used bytes (0) stay. BASE_CORRUPT: the peer breaks the framing. */
enum base_code sso_frame_take(const char *data, size_t n, struct sso_frame *ret_frame, size_t *ret_used,
                              struct base_err *err);

#endif

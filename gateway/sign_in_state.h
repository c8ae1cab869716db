/* Sign-in state: what a browser carries between leaving for its identity provider and coming back.
 *
 * What: a cookie sealed with AES-256-GCM under a key derived from the pepper. It binds the answer to the browser that asked, the
 *       provider and the kind of the flow, and holds what only we and the provider may know (nonce, code verifier).
 * Who:  any thread; pure.
 * Promises: a changed, old, or foreign cookie opens nothing; no two sign-ins have the same state.
 * Not here: that a state is used once (gw_sessions_use_once).
 */
#ifndef GATEWAY_SIGN_IN_STATE_H
#define GATEWAY_SIGN_IN_STATE_H

#include "base/err.h"
#include "base/secret.h"
#include "gateway/sessions.h"

#define GW_SIGN_IN_COOKIE     "__Host-gatehouse-signin"
#define GW_SIGN_IN_VALID_S    600
#define GW_SIGN_IN_TEXT       44u /* 32 random bytes in base64url, and the NUL */
#define GW_RETURN_TO_MAX      256u
#define GW_SIGN_IN_COOKIE_MAX 2048u

enum gw_sign_in_kind { GW_SIGN_IN_NONE = 0, GW_SIGN_IN_OIDC, GW_SIGN_IN_SAML };

struct gw_sign_in_state {
    enum gw_sign_in_kind kind;
    char provider[GW_PROVIDER_NAME_MAX];
    char state[GW_SIGN_IN_TEXT], nonce[GW_SIGN_IN_TEXT], verifier[GW_SIGN_IN_TEXT];
    char request_id[128]; /* SAML */
    char return_to[GW_RETURN_TO_MAX];
    int64_t created_s;
};

/* New random texts and the time; the rest is the caller's. */
void gw_sign_in_state_new(struct gw_sign_in_state *state, enum gw_sign_in_kind kind, const char *provider,
                          const char *return_to, int64_t now_s);
/* S256 of the verifier (RFC 7636 section 4.2). */
void gw_sign_in_challenge(const struct gw_sign_in_state *state, char out[GW_SIGN_IN_TEXT]);

/* The Set-Cookie value; state NULL removes the cookie. A SAML answer is posted from another site, so its cookie is SameSite=None. */
void gw_sign_in_seal(const struct base_secret *pepper, const struct gw_sign_in_state *state,
                     enum gw_sign_in_kind kind, char out[GW_SIGN_IN_COOKIE_MAX]);
/* From a Cookie header. BASE_NOT_FOUND: none, or several. BASE_CORRUPT: not made by us, or changed. */
enum base_code gw_sign_in_open(const struct base_secret *pepper, const char *header, size_t len,
                               struct gw_sign_in_state *ret_state);

/* A place of our own page to go back to: "/", or "/?..." of harmless characters; anything else becomes "/". */
void gw_return_to(const char *wanted, char out[GW_RETURN_TO_MAX]);

#endif

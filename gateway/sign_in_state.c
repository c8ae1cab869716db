/* Sign-in state. See sign_in_state.h. */
#include "gateway/sign_in_state.h"

#include "base/check.h"
#include "base/crypto.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

static const char domain[] = "gatehouse sign-in state v1";

static void random_text(char out[GW_SIGN_IN_TEXT])
{
    unsigned char bytes[32];

    base_random(bytes, sizeof(bytes));
    base_b64url_encode(bytes, sizeof(bytes), out);
    base_wipe(bytes, sizeof(bytes));
}

void gw_sign_in_state_new(struct gw_sign_in_state *state, enum gw_sign_in_kind kind, const char *provider,
                          const char *return_to, int64_t now_s)
{
    *state = (struct gw_sign_in_state){.kind = kind, .created_s = now_s};
    snprintf(state->provider, sizeof(state->provider), "%s", provider);
    gw_return_to(return_to, state->return_to);
    random_text(state->state);
    random_text(state->nonce);
    random_text(state->verifier);
}

void gw_sign_in_challenge(const struct gw_sign_in_state *state, char out[GW_SIGN_IN_TEXT])
{
    unsigned char digest[BASE_SHA256_BYTES];

    base_sha256(state->verifier, strlen(state->verifier), digest);
    base_b64url_encode(digest, sizeof(digest), out);
}

static void derive_key(const struct base_secret *pepper, unsigned char key[BASE_GCM_KEY_BYTES])
{
    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), domain, sizeof(domain), key);
}

/* The struct is the record: it never leaves machines of one build, and another build's does not open (its size differs, or its
 * contents are checked below). */
struct sealed {
    unsigned char nonce[BASE_GCM_NONCE_BYTES], tag[BASE_GCM_TAG_BYTES];
    unsigned char body[sizeof(struct gw_sign_in_state)];
};

void gw_sign_in_seal(const struct base_secret *pepper, const struct gw_sign_in_state *state,
                     enum gw_sign_in_kind kind, char out[GW_SIGN_IN_COOKIE_MAX])
{
    const char *same_site = kind == GW_SIGN_IN_SAML ? "None" : "Lax";
    char text[sizeof(struct sealed) * 4 / 3 + 8] = "";
    unsigned char key[BASE_GCM_KEY_BYTES];
    struct sealed sealed;

    if (state != NULL) {
        derive_key(pepper, key);
        base_random(sealed.nonce, sizeof(sealed.nonce));
        base_gcm_seal(key, sealed.nonce, domain, sizeof(domain), state, sizeof(*state), sealed.body,
                      sealed.tag);
        base_b64url_encode(&sealed, sizeof(sealed), text);
        base_wipe(key, sizeof(key));
    }
    snprintf(out, GW_SIGN_IN_COOKIE_MAX,
             GW_SIGN_IN_COOKIE "=%s; Path=/; Secure; HttpOnly; SameSite=%s; Max-Age=%d", text, same_site,
             state != NULL ? GW_SIGN_IN_VALID_S : 0);
    base_wipe(text, sizeof(text));
}

static bool ends(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

static enum base_code open_text(const struct base_secret *pepper, const char *text, size_t len,
                                struct gw_sign_in_state *ret_state)
{
    unsigned char key[BASE_GCM_KEY_BYTES];
    struct gw_sign_in_state state;
    struct sealed sealed;
    size_t n = 0;
    enum base_code rc;

    if (base_b64url_decode(text, len, &sealed, sizeof(sealed), &n) != BASE_OK || n != sizeof(sealed))
        return BASE_CORRUPT;
    derive_key(pepper, key);
    rc = base_gcm_open(key, sealed.nonce, domain, sizeof(domain), sealed.body, sizeof(state), &state,
                       sealed.tag);
    base_wipe(key, sizeof(key));
    if (rc != BASE_OK)
        return BASE_CORRUPT;
    if (!ends(state.provider, sizeof(state.provider)) || !ends(state.state, sizeof(state.state)) ||
        !ends(state.nonce, sizeof(state.nonce)) || !ends(state.verifier, sizeof(state.verifier)) ||
        !ends(state.request_id, sizeof(state.request_id)) || !ends(state.return_to, sizeof(state.return_to)))
        return BASE_CORRUPT;
    *ret_state = state;
    return BASE_OK;
}

enum base_code gw_sign_in_open(const struct base_secret *pepper, const char *header, size_t len,
                               struct gw_sign_in_state *ret_state)
{
    static const char name[] = GW_SIGN_IN_COOKIE "=";
    const char *value = NULL;
    size_t value_len = 0;

    if (len > 16384)
        return BASE_NOT_FOUND;
    for (size_t at = 0; at < len;) {
        const char *semi = memchr(header + at, ';', len - at);
        size_t end = semi != NULL ? (size_t)(semi - header) : len;

        while (at < end && header[at] == ' ')
            at++;
        if (end - at >= sizeof(name) - 1 && memcmp(header + at, name, sizeof(name) - 1) == 0) {
            if (value != NULL)
                return BASE_NOT_FOUND;
            value = header + at + sizeof(name) - 1;
            value_len = end - at - (sizeof(name) - 1);
        }
        at = end + 1;
    }
    return value != NULL ? open_text(pepper, value, value_len, ret_state) : BASE_NOT_FOUND;
}

void gw_return_to(const char *wanted, char out[GW_RETURN_TO_MAX])
{
    static const char harmless[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~=&";
    size_t len = wanted != NULL ? strlen(wanted) : 0;
    bool ours = len > 0 && len < GW_RETURN_TO_MAX && wanted[0] == '/' &&
                (len == 1 || (wanted[1] == '?' && strspn(wanted + 2, harmless) == len - 2));

    if (CHECK("signin.return_to", ours) && len < GW_RETURN_TO_MAX)
        memcpy(out, len > 0 ? wanted : "/", len > 0 ? len + 1 : 2);
    else
        memcpy(out, "/", 2);
}

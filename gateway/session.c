/* Session tokens. See session.h. */
#include "gateway/session.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

#define RANDOM_BYTES 32u
#define TAG_BYTES    16u
#define TOKEN_BYTES  (RANDOM_BYTES + TAG_BYTES)
#define DOMAIN_MAX   40u

/* One HMAC per purpose: the domain keeps them apart. */
static void keyed(const struct base_secret *pepper, const char *domain, const void *data, size_t n,
                  unsigned char out[BASE_SHA256_BYTES])
{
    unsigned char message[DOMAIN_MAX + GW_TOKEN_LEN];
    size_t domain_len = strlen(domain);

    memcpy(message, domain, domain_len);
    memcpy(message + domain_len, data, n);
    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), message, domain_len + n, out);
    base_wipe(message, sizeof(message));
}

static void tag_of(const struct base_secret *pepper, enum gw_token_kind kind,
                   const unsigned char random[RANDOM_BYTES], unsigned char out[BASE_SHA256_BYTES])
{
    keyed(pepper, kind == GW_TOKEN_SESSION ? "gatehouse session tag v1:" : "gatehouse link tag v1:", random,
          RANDOM_BYTES, out);
}

void gw_token_create(const struct base_secret *pepper, enum gw_token_kind kind, char out[GW_TOKEN_LEN + 1])
{
    unsigned char bytes[TOKEN_BYTES], tag[BASE_SHA256_BYTES];

    base_random(bytes, RANDOM_BYTES);
    tag_of(pepper, kind, bytes, tag);
    memcpy(bytes + RANDOM_BYTES, tag, TAG_BYTES);
    base_b64url_encode(bytes, sizeof(bytes), out);
    base_wipe(bytes, sizeof(bytes));
}

bool gw_token_genuine(const struct base_secret *pepper, enum gw_token_kind kind, const char *token,
                      size_t len)
{
    unsigned char bytes[TOKEN_BYTES], tag[BASE_SHA256_BYTES];
    size_t n = 0;
    bool genuine;

    if (len != GW_TOKEN_LEN || base_b64url_decode(token, len, bytes, sizeof(bytes), &n) != BASE_OK ||
        n != TOKEN_BYTES)
        return false;
    tag_of(pepper, kind, bytes, tag);
    genuine = base_ct_equal(bytes + RANDOM_BYTES, tag, TAG_BYTES);
    base_wipe(bytes, sizeof(bytes));
    return genuine;
}

void gw_token_hash(const struct base_secret *pepper, enum gw_token_kind kind, const char token[GW_TOKEN_LEN],
                   unsigned char out[BASE_SHA256_BYTES])
{
    keyed(pepper, kind == GW_TOKEN_SESSION ? "gatehouse session v1:" : "gatehouse link v1:", token,
          GW_TOKEN_LEN, out);
}

void gw_csrf_derive(const struct base_secret *pepper, const char session[GW_TOKEN_LEN],
                    char out[GW_CSRF_LEN + 1])
{
    unsigned char mac[BASE_SHA256_BYTES];

    keyed(pepper, "gatehouse csrf v1:", session, GW_TOKEN_LEN, mac);
    base_b64url_encode(mac, sizeof(mac), out);
}

bool gw_csrf_matches(const struct base_secret *pepper, const char session[GW_TOKEN_LEN], const char *token,
                     size_t len)
{
    char expected[GW_CSRF_LEN + 1];

    if (token == NULL || len != GW_CSRF_LEN)
        return false;
    gw_csrf_derive(pepper, session, expected);
    return base_ct_equal(expected, token, GW_CSRF_LEN);
}

unsigned gw_cookie_find(const char *header, size_t len, const char **ret_value, size_t *ret_len)
{
    static const char start[] = GW_COOKIE_NAME "=";
    const size_t start_len = sizeof(start) - 1;
    unsigned count = 0;

    if (len > GW_COOKIE_HEADER_MAX)
        return 2;
    for (size_t at = 0; at < len;) {
        const char *semicolon = memchr(header + at, ';', len - at);
        size_t end = semicolon != NULL ? (size_t)(semicolon - header) : len;
        size_t from = at, to = end;

        while (from < to && (header[from] == ' ' || header[from] == '\t'))
            from++;
        while (to > from && (header[to - 1] == ' ' || header[to - 1] == '\t'))
            to--;
        if (to - from >= start_len && memcmp(header + from, start, start_len) == 0) {
            count++;
            *ret_value = header + from + start_len;
            *ret_len = to - from - start_len;
        }
        at = end + 1;
    }
    return count;
}

void gw_cookie_render(const char *token, unsigned max_age_s, char out[GW_SET_COOKIE_MAX])
{
    snprintf(out, GW_SET_COOKIE_MAX, GW_COOKIE_NAME "=%s; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=%u",
             token != NULL ? token : "", token != NULL ? max_age_s : 0);
}

bool gw_origin_valid(const char *origin)
{
    const char *host = strstr(origin, "://"), *port;

    if (host == NULL || strlen(origin) >= GW_ORIGIN_MAX)
        return false;
    if (strncmp(origin, "https://", 8) != 0 && strncmp(origin, "http://", 7) != 0)
        return false;
    host += 3;
    port = strrchr(host, ':');
    if (port != NULL && strcmp(port, origin[4] == 's' ? ":443" : ":80") == 0)
        return false;
    return host[0] != '\0' && strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789.-:[]") == strlen(host);
}

static bool text_is(const char *text, size_t len, const char *expected)
{
    return text != NULL && len == strlen(expected) && memcmp(text, expected, len) == 0;
}

bool gw_origin_ours(const struct gw_origin_facts *facts, const char *public_origin, bool form)
{
    bool fetch_same = text_is(facts->sec_fetch_site, facts->sec_fetch_site_len, "same-origin");

    if (facts->sec_fetch_site != NULL && !fetch_same)
        return false;
    if (text_is(facts->origin, facts->origin_len, public_origin))
        return true;
    return form && fetch_same && text_is(facts->origin, facts->origin_len, "null");
}

/* Tags. See tags.h. */
#include "gateway/tags.h"

#include "base/crypto.h"
#include "base/mem.h"

#include <string.h>

static const char domain[] = "gatehouse tag v1";

static size_t add(unsigned char *message, size_t n, const char *text, bool fold)
{
    size_t len = text != NULL ? strnlen(text, GW_SUBJECT_MAX) : 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        message[n + i] = (unsigned char)(fold && c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    }
    message[n + len] = 0; /* keeps the parts apart */
    return n + len + 1;
}

uint64_t gw_tag(const struct base_secret *pepper, enum gw_tag_kind kind, const char *a, const char *b,
                const char *c)
{
    unsigned char message[sizeof(domain) + 1 + 3 * (GW_SUBJECT_MAX + 1)];
    unsigned char mac[BASE_SHA256_BYTES];
    const char *const parts[] = {a, b, c};
    size_t n = sizeof(domain);
    uint64_t tag;

    if (a == NULL || a[0] == '\0')
        return 0;
    memcpy(message, domain, sizeof(domain));
    message[n++] = (unsigned char)kind;
    for (size_t i = 0; i < BASE_ARRAY_LEN(parts); i++)
        n = add(message, n, parts[i], kind == GW_TAG_DIRECTORY);
    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), message, n, mac);
    memcpy(&tag, mac, sizeof(tag));
    return tag != 0 ? tag : 1;
}

void gw_tags_fill(const struct base_secret *pepper, struct gw_principal *who)
{
    who->cache_tag = gw_tag(pepper, GW_TAG_CACHE, who->issuer, who->subject, who->tenant);
    who->person_tag = gw_tag(pepper, GW_TAG_PERSON, who->issuer, who->subject, NULL);
    if (who->method == GW_AUTH_API_KEY)
        who->directory_tag = gw_tag(pepper, GW_TAG_DIRECTORY, who->subject, NULL, NULL);
}

/* Tags: a name (of a person, of a provider's session, of a directory's entry) as a keyed 64-bit number.
 *
 * What: HMAC-SHA-256 under the pepper, cut to 64 bits: to compare fast, to share nothing between two names, and to store without
 *       naming anybody. Keyed, so that nobody can look for a name whose tag collides with another's.
 * Who:  any thread; nothing allocates, nothing blocks. 0 is never a tag.
 */
#ifndef GATEWAY_TAGS_H
#define GATEWAY_TAGS_H

#include "base/secret.h"
#include "gateway/principal.h"

enum gw_tag_kind {
    GW_TAG_CACHE = 1, /* issuer, subject, tenant: KV pages */
    GW_TAG_PERSON,    /* issuer, subject */
    GW_TAG_SID,       /* issuer, the provider's session */
    GW_TAG_DIRECTORY, /* directory key, without case */
    GW_TAG_SESSION,   /* the session's public name */
    GW_TAG_TOKEN      /* hex of the hash of a session's token: a token that was rotated away */
};

/* Texts of at most GW_SUBJECT_MAX bytes; b, c: NULL or "" for none. 0 when a is "". */
uint64_t gw_tag(const struct base_secret *pepper, enum gw_tag_kind kind, const char *a, const char *b,
                const char *c);
/* Fills cache_tag and person_tag; of an API key also directory_tag, since its owner is known by that name. */
void gw_tags_fill(const struct base_secret *pepper, struct gw_principal *who);

#endif

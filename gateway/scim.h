/* SCIM: /scim/v2, where an identity provider writes who there is (RFC 7643, 7644).
 *
 * What: Users, Groups, their searches and the discovery documents, behind a bearer token: the one of the policy's scim section, or an access
 *       token of a provider (scim_audiences) that belongs to a service account or an administrator. A person who is deactivated loses
 *       sessions, streams and API keys in the same transaction.
 * Who:  gw_scim_handle on a loop; bodies and the database on the store's workers; configure from the main thread.
 * Promises: what cannot be recorded in the audit does not happen; wrong tokens are throttled by address.
 */
#ifndef GATEWAY_SCIM_H
#define GATEWAY_SCIM_H

#include "base/err.h"
#include "base/secret.h"
#include "gateway/server.h"

struct aud;
struct gw_auth;
struct gw_directory;
struct gw_revocations;
struct gw_scim;
struct gw_store;
struct pol_snapshot;

struct gw_scim_options { /* nothing is copied but the URL */
    struct gw_store *store;
    struct gw_revocations *revocations;
    struct gw_directory *directory;
    struct gw_auth *auth;
    struct aud *audit;
    const struct base_secret *pepper;
    const char *public_url;
    unsigned keep_s; /* a revocation: for as long as something from before can be brought */
};
struct gw_scim *gw_scim_new(const struct gw_scim_options *options);
void gw_scim_free(struct gw_scim *scim); /* after the store and the loops; NULL is allowed */
/* The policy's scim section, and its token file. On failure nothing changes. */
enum base_code gw_scim_configure(struct gw_scim *scim, const struct pol_snapshot *policy,
                                 struct base_err *err);
/* True when the path is one of SCIM's and the policy has a scim section: it is answered. */
bool gw_scim_handle(struct gw_scim *scim, struct gw_http *http);

#endif

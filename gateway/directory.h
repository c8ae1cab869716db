/* Directory: the persons and groups that SCIM pushed, as the loops see them.
 *
 * What: an immutable snapshot in memory of identity.scim_users and scim_groups, replaced within a second of a change anywhere
 *       (notification, and a version poll in case one is lost). Joined to a sign-in by one text, the key: the user's userName or
 *       externalId, compared without case, as the policy's scim section says.
 * Who:  gw_directory_find from any thread, without a database. The store's watcher refreshes it.
 */
#ifndef GATEWAY_DIRECTORY_H
#define GATEWAY_DIRECTORY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_DIRECTORY_KEY_MAX 256u

struct gw_directory;
struct base_pg;

struct gw_directory *gw_directory_new(void); /* knows nobody until it is refreshed; keys are userNames */
void gw_directory_free(struct gw_directory *directory); /* NULL is allowed */
/* Which of a user's names is the key from now on. */
void gw_directory_use_external_id(struct gw_directory *directory, bool external_id);
/* Loads everything anew when the version in the database is another. By the store's watcher alone. */
enum base_code gw_directory_refresh(struct gw_directory *directory, struct base_pg *pg, struct base_err *err);

enum gw_person_state {
    GW_PERSON_UNKNOWN = 0, /* never provisioned */
    GW_PERSON_DEACTIVATED, /* active: false, or deleted after it was provisioned */
    GW_PERSON_ACTIVE
};
/* groups: calls each for every group's display name and external id of an active person; may be NULL. The texts live for the call. */
enum gw_person_state gw_directory_find(struct gw_directory *directory, const char *key,
                                       void (*each)(const char *group, void *user), void *user);
/* Changes with every snapshot. */
uint64_t gw_directory_version(struct gw_directory *directory);

#endif

/* Directory: the persons and groups that SCIM pushed, as the loops see them.
 *
 * What: an immutable snapshot in memory of identity.scim_users and scim_groups, replaced within a second of a change anywhere
 *       (notification, and a version poll in case one is lost). Joined to a sign-in by one text, the key: the user's userName or
 *       externalId, compared without case, as the policy's scim section says.
 * Who:  gw_directory_find from any thread, without a database. The store's watcher refreshes it.
 * Promises: a change costs what it changes, not the size of the directory, but for a copy of its pointers.
 * Source: migrations/0021_scim.sql, 0023_scim_changes.sql.
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
/* Brings what changed since the version that we have. Everything when that cannot be told: the first time, too old, too much, or
 * `elsewhere`, behind another connection, where another database may be. On failure the old snapshot stays and pg is disconnected.
 * By the store's watcher alone. */
enum base_code gw_directory_refresh(struct gw_directory *directory, bool elsewhere, struct base_pg *pg,
                                    struct base_err *err);
/* How often everything was read. By who refreshes; for tests. */
uint64_t gw_directory_whole_reads(const struct gw_directory *directory);

enum gw_person_state {
    GW_PERSON_UNKNOWN = 0, /* never provisioned */
    GW_PERSON_DEACTIVATED, /* active: false, or deleted after it was provisioned */
    GW_PERSON_ACTIVE
};
/* groups: calls each for every group's display name and external id of an active person; may be NULL. The texts live for the call. */
enum gw_person_state gw_directory_find(struct gw_directory *directory, const char *key,
                                       void (*each)(const char *group, void *user), void *user);
#endif

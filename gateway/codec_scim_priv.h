/* SCIM codec, between its files: codec_scim.c (reading and writing resources) and codec_scim_patch.c. jansson values stay in these. */
#ifndef GATEWAY_CODEC_SCIM_PRIV_H
#define GATEWAY_CODEC_SCIM_PRIV_H

#include "gateway/codec_scim.h"
#include "gateway/scim_schema.h"

#include <jansson.h>

static inline void scim_json_cleanup(json_t **json)
{
    json_decref(*json);
}
#define auto_json __attribute__((cleanup(scim_json_cleanup)))

bool scim_fail(struct gw_scim_error *error, const char *check, const char *scim_type, const char *detail);
/* A JSON object within the limits; NULL: refused. */
json_t *scim_parse(const char *body, size_t len, struct gw_scim_error *error);
/* Without case; NULL when absent or twice. */
json_t *scim_get(json_t *object, const char *name);

/* One attribute of `target` as a client says it; null and "" take it away. */
bool scim_set(json_t *target, const struct gw_scim_field *field, json_t *value, struct gw_scim_error *error);
/* Every known attribute of `value`, which must be an object; unknown ones are left out. */
bool scim_set_all(json_t *target, const struct gw_scim_field *fields, json_t *value,
                  struct gw_scim_error *error);
/* The list of e-mail addresses, made when it is missing. */
json_t *scim_emails_of(json_t *doc);
bool scim_add_emails(json_t *doc, const struct gw_scim_field *field, json_t *value,
                     struct gw_scim_error *error);
/* One is the primary address: the last that says so. */
void scim_one_primary(json_t *emails);
/* The document as a user; it must have a name. */
bool scim_user_finish(json_t *doc, struct gw_scim_user *ret_user, struct gw_scim_error *error);

/* A step on a group's members: those of `value`, a list of objects with "value" or one such; NULL for none. */
bool scim_add_step(struct gw_scim_group *group, enum gw_scim_step_kind kind, json_t *value,
                   struct gw_scim_error *error);
/* A text of a group; display names must not be empty. */
bool scim_group_text(char **ret_text, json_t *value, struct gw_scim_error *error);

#endif

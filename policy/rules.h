/* Rules: a YAML tree becomes a snapshot; every name is looked up, every unknown key refused with its place.
 *
 * Who: snapshot.c. The document itself is described in docs/policy.md.
 */
#ifndef POLICY_RULES_H
#define POLICY_RULES_H

#include "policy/snapshot.h"
#include "policy/yaml.h"

/* Fills a snapshot that holds only its arena. `name` is the file's name: for messages, and its folder for
 * relative paths. */
enum base_code rules_read(struct pol_snapshot *snapshot, const char *name, const struct yaml_node *root,
                          struct base_err *err);
/* identity.c: the section `identity`; node NULL: all defaults. Roles are read before. */
struct rules_ctx;
enum base_code rules_read_identity(const struct rules_ctx *c, const struct yaml_node *node);
/* rules_warn.c: adds what is allowed but useless or unreachable to snapshot->warnings. */
void rules_warn(struct pol_snapshot *snapshot);
/* Adds one warning; past SNAPSHOT_WARNINGS_MAX it is dropped. */
void rules_add_warning(struct pol_snapshot *snapshot, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif

/* Identity: the parts of reading the section `identity` that its two files share.
 *
 * Who: identity.c (the section, mapping, service accounts, SCIM) and identity_provider.c (one provider).
 */
#ifndef POLICY_IDENTITY_H
#define POLICY_IDENTITY_H

#include "policy/rules_value.h"

/* What may stand in a text of the section; returns the fault ("must be ..."), NULL when there is none. */
typedef const char *identity_fault_fn(const char *text);

/* The value of a key; without it *out stays. Control characters are refused, as is what `fault` (may be NULL) says. */
enum base_code identity_text(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             identity_fault_fn *fault, char *out, size_t out_max);
/* A path, resolved like rules_path; without the key *out stays. */
enum base_code identity_path(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             char out[POL_PATH_MAX]);
/* One of the allowed words, as its index; without the key *ret_index stays. */
enum base_code identity_choice(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                               const char *const *allowed, size_t n, unsigned *ret_index);
enum base_code identity_flag(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             bool *value);
/* A list of texts, none twice; without the key *out stays. */
enum base_code identity_list(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             identity_fault_fn *fault, struct pol_list *out);
bool identity_list_has(const struct pol_list *list, const char *text);
/* Letters, digits, - and _: a name that stands in a URL and in a subject. */
enum base_code identity_name(const struct rules_ctx *c, const struct yaml_node *key, const char *what,
                             char name[POL_NAME_MAX]);

/* One entry of `providers`; *provider is zeroed. */
enum base_code identity_read_provider(const struct rules_ctx *c, const struct yaml_node *key,
                                      const struct yaml_node *node, struct pol_provider *provider);

#endif

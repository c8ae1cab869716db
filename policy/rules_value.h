/* Values of a policy document, read one by one; a refusal names the file, line and column.
 *
 * Who: rules.c. rules_value.c knows words, numbers, names, paths and classes, not what they are for.
 */
#ifndef POLICY_RULES_VALUE_H
#define POLICY_RULES_VALUE_H

#include "policy/snapshot.h"
#include "policy/yaml.h"

struct rules_ctx {
    struct pol_snapshot *snap;
    const char *name; /* the file's */
    struct base_err *err;
};

enum base_code rules_refuse(const struct rules_ctx *c, const struct yaml_node *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Refuses a word that is none of the allowed ones, with the nearest of them. */
enum base_code rules_refuse_word(const struct rules_ctx *c, const struct yaml_node *at, const char *what,
                                 const char *const *allowed, size_t n);

enum base_code rules_need(const struct rules_ctx *c, const struct yaml_node *node, enum yaml_kind kind,
                          const char *what);
/* A map that has no key but the allowed ones, and every one of the first n_required. */
enum base_code rules_need_keys(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                               const char *const *allowed, size_t n, size_t n_required);

/* The value of a key; `absent` without it. */
enum base_code rules_number(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                            uint64_t min, uint64_t max, uint64_t absent, uint64_t *ret_value);
enum base_code rules_u32(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                         uint32_t min, uint32_t max, uint32_t absent, uint32_t *ret_value);
/* A path: one that is relative is one from the policy file's folder. An absent key gives NULL. */
enum base_code rules_path(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                          const char **ret_path);

enum base_code rules_bool(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          bool *ret_value);
enum base_code rules_class(const struct rules_ctx *c, const struct yaml_node *node,
                           enum pol_class *ret_class);
enum base_code rules_name(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          char ret_name[POL_NAME_MAX]);
/* Any word, kept in the snapshot's arena. */
enum base_code rules_word(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          const char **ret_word);

/* Makes room for one zeroed element for each key of a section, 1 to max; ret_array points to the array's
 * pointer. */
enum base_code rules_section(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                             size_t max, size_t element, void *ret_array);
/* Finds the name in an array of structs that begin with their name. */
enum base_code rules_find(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          const void *array, size_t element, size_t n, size_t *ret_index);

#endif

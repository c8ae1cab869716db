/* YAML: a text becomes a small tree of maps, lists and words, each with its line and column.
 *
 * What: the part of YAML 1.2 that a policy needs. Refused, with their place: anchors and aliases, tags, keys
 * that are not plain words, the same key twice, several documents, NUL bytes, text that is no UTF-8, and what
 * passes the limits below. Who:  policy/rules.c; any thread. yaml.c is the only file that includes libfyaml.
 * Not here: what the words mean.
 */
#ifndef POLICY_YAML_H
#define POLICY_YAML_H

#include "base/err.h"

#include <stdbool.h>

#define YAML_DEPTH_MAX 12u
#define YAML_NODES_MAX 20000u

enum yaml_kind { YAML_WORD, YAML_MAP, YAML_LIST };

struct yaml_node {
    enum yaml_kind kind;
    unsigned line, column;   /* from 1 */
    char *word;              /* of a YAML_WORD: NUL-terminated; "" for an empty value */
    bool quoted;             /* the word stood in quotes (or is a block text) */
    struct yaml_node **keys; /* of a YAML_MAP: words, as many as items */
    struct yaml_node **items;
    size_t n;
};

/* `name` stands before each message. BASE_INVALID: "NAME:LINE:COLUMN: what is wrong". */
enum base_code yaml_parse(struct yaml_node **ret_root, const char *name, const char *text, size_t len,
                          struct base_err *err);
void yaml_free(struct yaml_node *node); /* NULL is allowed */

/* The value of a key, or NULL. */
struct yaml_node *yaml_get(const struct yaml_node *map, const char *key);

#endif

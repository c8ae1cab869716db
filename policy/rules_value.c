/* See rules_value.h. */
#include "policy/rules_value.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX 4096u

/* ---- messages ---- */

enum base_code rules_refuse(const struct rules_ctx *c, const struct yaml_node *at, const char *fmt, ...)
{
    char what[BASE_DETAIL_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return base_fail(c->err, BASE_INVALID, 0, "%s:%u:%u: %s", c->name, at->line, at->column, what);
}

/* Levenshtein distance of two short words. */
static size_t distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), row[POL_NAME_MAX + 1];

    if (la > POL_NAME_MAX || lb > POL_NAME_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= lb; j++)
        row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[la > 0 || lb > 0 ? lb : 0];
}

static const char *nearest(const char *word, const char *const *allowed, size_t n)
{
    const char *best = NULL;
    size_t best_distance = 4;

    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, allowed[i]);

        if (d < best_distance && d < strlen(allowed[i])) {
            best_distance = d;
            best = allowed[i];
        }
    }
    return best;
}

/* "unknown WHAT "x": did you mean "y"? allowed: ..." */
enum base_code rules_refuse_word(const struct rules_ctx *c, const struct yaml_node *at, const char *what,
                                 const char *const *allowed, size_t n)
{
    const char *near = nearest(at->word, allowed, n);
    char list[160] = "";

    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(list);

        snprintf(list + used, sizeof(list) - used, "%s%s", i > 0 ? ", " : "", allowed[i]);
    }
    if (near != NULL)
        return rules_refuse(c, at, "unknown %s \"%.40s\"; did you mean \"%s\"?", what, at->word, near);
    return rules_refuse(c, at, "unknown %s \"%.40s\"; allowed: %s", what, at->word,
                        n > 0 ? list : "none is defined");
}

/* ---- values ---- */

enum base_code rules_need(const struct rules_ctx *c, const struct yaml_node *node, enum yaml_kind kind,
                          const char *what)
{
    static const char *const kinds[] = {"a word or number", "a map (key: value)", "a list"};

    if (node->kind == kind && (kind != YAML_WORD || node->word[0] != '\0'))
        return BASE_OK;
    return rules_refuse(c, node, "%s must be %s", what, kinds[kind]);
}

enum base_code rules_need_keys(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                               const char *const *allowed, size_t n, size_t n_required)
{
    enum base_code rc = rules_need(c, node, YAML_MAP, what);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        bool known = false;

        for (size_t k = 0; k < n && !known; k++)
            known = strcmp(node->keys[i]->word, allowed[k]) == 0;
        if (!known)
            rc = rules_refuse_word(c, node->keys[i], "key", allowed, n);
    }
    for (size_t k = 0; rc == BASE_OK && k < n_required; k++)
        if (yaml_get(node, allowed[k]) == NULL)
            rc = rules_refuse(c, node, "%s lacks the key \"%s\"", what, allowed[k]);
    return rc;
}

enum base_code rules_number(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                            uint64_t min, uint64_t max, uint64_t absent, uint64_t *ret_value)
{
    const struct yaml_node *node = yaml_get(map, key);
    uint64_t value;

    if (node == NULL) {
        *ret_value = absent;
        return BASE_OK;
    }
    if (node->kind != YAML_WORD || node->quoted ||
        base_parse_u64(node->word, strlen(node->word), max, &value) != BASE_OK || value < min)
        return rules_refuse(c, node, "%s must be a whole number from %llu to %llu", key,
                            (unsigned long long)min, (unsigned long long)max);
    *ret_value = value;
    return BASE_OK;
}

enum base_code rules_u32(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                         uint32_t min, uint32_t max, uint32_t absent, uint32_t *ret_value)
{
    uint64_t value = 0;
    enum base_code rc = rules_number(c, map, key, min, max, absent, &value);

    if (rc == BASE_OK)
        *ret_value = (uint32_t)value;
    return rc;
}

enum base_code rules_class(const struct rules_ctx *c, const struct yaml_node *node, enum pol_class *ret_class)
{
    static const char *const names[] = {"public", "internal", "confidential", "secret"};
    enum base_code rc = rules_need(c, node, YAML_WORD, "a class");
    enum pol_class cls;

    if (rc != BASE_OK)
        return rc;
    cls = pol_class_parse(node->word, strlen(node->word));
    if (cls == POL_CLASS_UNKNOWN)
        return rules_refuse_word(c, node, "class", names, BASE_ARRAY_LEN(names));
    *ret_class = cls;
    return BASE_OK;
}

enum base_code rules_name(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          char ret_name[POL_NAME_MAX])
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/-";
    enum base_code rc = rules_need(c, node, YAML_WORD, what);
    size_t len;

    if (rc != BASE_OK)
        return rc;
    len = strlen(node->word);
    if (len >= POL_NAME_MAX)
        return rules_refuse(c, node, "%s is %zu characters long; at most %u", what, len, POL_NAME_MAX - 1);
    if (strspn(node->word, allowed) != len)
        return rules_refuse(c, node, "%s may hold only letters, digits and . _ : / -", what);
    memcpy(ret_name, node->word, len + 1);
    return BASE_OK;
}

enum base_code rules_word(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          const char **ret_word)
{
    enum base_code rc = rules_need(c, node, YAML_WORD, what);

    if (rc != BASE_OK)
        return rc;
    if (strlen(node->word) > WORD_MAX)
        return rules_refuse(c, node, "%s is too long", what);
    *ret_word = base_arena_dup(c->snap->arena, node->word, strlen(node->word));
    return *ret_word != NULL ? BASE_OK : rules_refuse(c, node, "the document holds too much text");
}

enum base_code rules_path(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                          const char **ret_path)
{
    const struct yaml_node *node = yaml_get(map, key);
    const char *slash = strrchr(c->name, '/'), *word = NULL;
    enum base_code rc = node != NULL ? rules_word(c, node, key, &word) : BASE_OK;

    if (rc == BASE_OK && word != NULL && word[0] != '/' && slash != NULL) {
        size_t folder = (size_t)(slash - c->name) + 1, len = strlen(word);
        char *path = base_arena_alloc(c->snap->arena, folder + len + 1);

        if (path == NULL)
            return rules_refuse(c, node, "the document holds too much text");
        memcpy(path, c->name, folder);
        memcpy(path + folder, word, len + 1);
        word = path;
    }
    if (rc == BASE_OK)
        *ret_path = word;
    return rc;
}

enum base_code rules_section(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                             size_t max, size_t element, void *ret_array)
{
    enum base_code rc = rules_need(c, node, YAML_MAP, what);
    void *array;

    if (rc != BASE_OK)
        return rc;
    if (node->n == 0 || node->n > max)
        return rules_refuse(c, node, "%s must have 1 to %zu entries, has %zu", what, max, node->n);
    array = base_arena_alloc(c->snap->arena, node->n * element);
    if (array == NULL)
        return rules_refuse(c, node, "the document holds too much");
    memcpy(ret_array, &array, sizeof(array));
    return BASE_OK;
}

enum base_code rules_find(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          const void *array, size_t element, size_t n, size_t *ret_index)
{
    const char *names[POL_MODELS_MAX];
    enum base_code rc = rules_need(c, node, YAML_WORD, what);

    if (rc != BASE_OK)
        return rc;
    for (size_t i = 0; i < n; i++) {
        names[i] = (const char *)array + i * element;
        if (strcmp(names[i], node->word) == 0) {
            *ret_index = i;
            return BASE_OK;
        }
    }
    return rules_refuse_word(c, node, what, names, n);
}

enum base_code rules_bool(const struct rules_ctx *c, const struct yaml_node *node, const char *what,
                          bool *ret_value)
{
    if (node->kind == YAML_WORD && !node->quoted && strcmp(node->word, "true") == 0)
        *ret_value = true;
    else if (node->kind == YAML_WORD && !node->quoted && strcmp(node->word, "false") == 0)
        *ret_value = false;
    else
        return rules_refuse(c, node, "%s must be true or false", what);
    return BASE_OK;
}

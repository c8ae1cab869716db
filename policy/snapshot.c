/* A snapshot's life: load, canonical form and hash, reference count, look-up. See policy.h. */
#include "policy/rules.h"

#include "base/crypto.h"
#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- canonical form ----
 * The document as JSON with sorted keys. A list of words alone is a set in every place of this schema
 * (markings, a role's models, scopes), so it is sorted too; a list of maps (routes, mapping) keeps its order, which means
 * something. */

#define CANONICAL_MAX (16u << 20)

static void append_canonical(struct base_buf *out, const struct yaml_node *node);

static int by_word(const void *a, const void *b)
{
    return strcmp((*(const struct yaml_node *const *)a)->word, (*(const struct yaml_node *const *)b)->word);
}

static void append_list(struct base_buf *out, const struct yaml_node *node)
{
    auto_free struct yaml_node **items = base_alloc((node->n + 1) * sizeof(struct yaml_node *));
    bool is_set = true;

    for (size_t i = 0; i < node->n; i++) {
        items[i] = node->items[i];
        is_set = is_set && items[i]->kind == YAML_WORD;
    }
    if (is_set)
        qsort(items, node->n, sizeof(struct yaml_node *), by_word);
    base_buf_append_char(out, '[');
    for (size_t i = 0; i < node->n; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        append_canonical(out, items[i]);
    }
    base_buf_append_char(out, ']');
}

static void append_map(struct base_buf *out, const struct yaml_node *node)
{
    auto_free struct yaml_node **keys = base_alloc((node->n + 1) * sizeof(struct yaml_node *));

    for (size_t i = 0; i < node->n; i++)
        keys[i] = node->keys[i];
    qsort(keys, node->n, sizeof(struct yaml_node *), by_word);
    base_buf_append_char(out, '{');
    for (size_t i = 0; i < node->n; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        append_canonical(out, keys[i]);
        base_buf_append_char(out, ':');
        append_canonical(out, yaml_get(node, keys[i]->word));
    }
    base_buf_append_char(out, '}');
}

static void append_canonical(struct base_buf *out, const struct yaml_node *node)
{
    switch (node->kind) {
    case YAML_WORD: base_buf_append_json(out, node->word, strlen(node->word)); break;
    case YAML_LIST: append_list(out, node); break;
    case YAML_MAP: append_map(out, node); break;
    }
}

static enum base_code hash_document(const struct yaml_node *root, char hash[POL_HASH_HEX],
                                    struct base_err *err)
{
    auto_buf struct base_buf canonical = BASE_BUF_INIT(CANONICAL_MAX);
    unsigned char digest[BASE_SHA256_BYTES];

    append_canonical(&canonical, root);
    if (canonical.failed)
        return base_fail(err, BASE_TOO_LARGE, 0, "the policy's canonical form passes %u bytes",
                         CANONICAL_MAX);
    base_sha256(canonical.data, canonical.len, digest);
    base_hex_encode(digest, sizeof(digest), hash);
    return BASE_OK;
}

/* ---- load ---- */

BASE_AUTO(struct pol_snapshot *, pol_unref)
#define auto_snapshot __attribute__((cleanup(pol_unref_cleanup)))
BASE_AUTO(struct yaml_node *, yaml_free)
#define auto_node __attribute__((cleanup(yaml_free_cleanup)))

enum base_code pol_load(struct pol_snapshot **ret_snapshot, const char *name, const char *text, size_t len,
                        struct base_err *err)
{
    static atomic_uint_fast64_t last_id;
    auto_snapshot struct pol_snapshot *snapshot = NULL;
    auto_node struct yaml_node *root = NULL;
    enum base_code rc;

    if (len > POL_FILE_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "%s: the policy is %zu bytes, at most %u", name, len,
                         POL_FILE_MAX);
    rc = yaml_parse(&root, name, text, len, err);
    if (rc != BASE_OK)
        return rc;
    snapshot = base_zalloc(sizeof(*snapshot));
    atomic_init(&snapshot->refs, 1);
    snapshot->id = atomic_fetch_add(&last_id, 1) + 1;
    snapshot->arena = base_arena_new(SNAPSHOT_ARENA_BYTES);
    rc = rules_read(snapshot, name, root, err);
    if (rc == BASE_OK)
        rc = hash_document(root, snapshot->hash, err);
    if (rc == BASE_OK)
        rc = scan_db_new(&snapshot->scan, snapshot, err);
    if (rc == BASE_OK)
        *ret_snapshot = TAKE(snapshot);
    return rc;
}

enum base_code pol_load_file(struct pol_snapshot **ret_snapshot, const char *path, struct base_err *err)
{
    auto_free char *text = NULL;
    FILE *f = fopen(path, "rbe");
    size_t len;
    bool failed;

    if (f == NULL)
        return base_fail(err, errno == ENOENT ? BASE_NOT_FOUND : BASE_IO, errno, "%s: %s", path,
                         strerror(errno));
    text = base_alloc(POL_FILE_MAX + 1);
    len = fread(text, 1, POL_FILE_MAX + 1, f);
    failed = ferror(f) != 0;
    fclose(f);
    if (failed)
        return base_fail(err, BASE_IO, 0, "%s: cannot be read", path);
    return pol_load(ret_snapshot, path, text, len, err);
}

struct pol_snapshot *pol_ref(struct pol_snapshot *snapshot)
{
    atomic_fetch_add_explicit(&snapshot->refs, 1, memory_order_relaxed);
    return snapshot;
}

void pol_unref(struct pol_snapshot *snapshot)
{
    if (snapshot == NULL || atomic_fetch_sub_explicit(&snapshot->refs, 1, memory_order_acq_rel) != 1)
        return;
    scan_db_free(snapshot->scan);
    base_arena_unref(snapshot->arena);
    free(snapshot);
}

/* ---- look-up ---- */

const char *pol_hash(const struct pol_snapshot *snapshot)
{
    return snapshot->hash;
}

size_t pol_n_backends(const struct pol_snapshot *snapshot)
{
    return snapshot->n_backends;
}

const struct pol_backend *pol_backend_at(const struct pol_snapshot *snapshot, size_t index)
{
    return &snapshot->backends[index];
}

size_t pol_n_models(const struct pol_snapshot *snapshot)
{
    return snapshot->n_models;
}

const struct pol_model *pol_model_at(const struct pol_snapshot *snapshot, size_t index)
{
    return &snapshot->models[index].pub;
}

const struct role_rule *snapshot_role(const struct pol_snapshot *snapshot, const char *name)
{
    for (size_t i = 0; i < snapshot->n_roles; i++)
        if (strcmp(snapshot->roles[i].name, name) == 0)
            return &snapshot->roles[i];
    return NULL;
}

bool pol_role_exists(const struct pol_snapshot *snapshot, const char *role)
{
    return snapshot_role(snapshot, role) != NULL;
}

bool pol_model_visible(const struct pol_snapshot *snapshot, size_t index, const char *const *roles,
                       size_t n_roles)
{
    bool granted = false;

    for (size_t i = 0; index < snapshot->n_models && i < n_roles; i++) {
        const struct role_rule *role = snapshot_role(snapshot, roles[i]);

        if (role != NULL && role_denies(role, index))
            return false;
        granted = granted || (role != NULL && role_grants(role, index));
    }
    return granted;
}

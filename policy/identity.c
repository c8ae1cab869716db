/* The document's section `identity`: who may come in, and with which roles. See rules.h and docs/policy.md. */
#include "policy/identity.h"
#include "policy/rules.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define REFRESH_S_MIN 60u
#define REFRESH_S_MAX 86400u
#define FINGERPRINT   64u /* hex digits of a SHA-256 */

/* ---- values ---- */

static bool has_control(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return true;
    return false;
}

enum base_code identity_text(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             identity_fault_fn *fault, char *out, size_t out_max)
{
    const struct yaml_node *node = yaml_get(map, key);
    const char *what = NULL;
    enum base_code rc;

    if (node == NULL)
        return BASE_OK;
    rc = rules_need(c, node, YAML_WORD, key);
    if (rc != BASE_OK)
        return rc;
    if (strlen(node->word) >= out_max)
        return rules_refuse(c, node, "%s is %zu characters long; at most %zu", key, strlen(node->word),
                            out_max - 1);
    if (has_control(node->word))
        return rules_refuse(c, node, "%s may not hold control characters", key);
    what = fault != NULL ? fault(node->word) : NULL;
    if (what != NULL)
        return rules_refuse(c, node, "%s %s", key, what);
    memcpy(out, node->word, strlen(node->word) + 1);
    return BASE_OK;
}

enum base_code identity_path(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             char out[POL_PATH_MAX])
{
    const char *path = NULL;
    enum base_code rc = rules_path(c, map, key, &path);

    if (rc != BASE_OK || path == NULL)
        return rc;
    if (strlen(path) >= POL_PATH_MAX)
        return rules_refuse(c, yaml_get(map, key), "%s is a path of more than %u characters", key,
                            POL_PATH_MAX - 1);
    memcpy(out, path, strlen(path) + 1);
    return BASE_OK;
}

enum base_code identity_choice(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                               const char *const *allowed, size_t n, unsigned *ret_index)
{
    const struct yaml_node *node = yaml_get(map, key);
    enum base_code rc = node != NULL ? rules_need(c, node, YAML_WORD, key) : BASE_OK;

    if (node == NULL || rc != BASE_OK)
        return rc;
    for (unsigned i = 0; i < n; i++)
        if (strcmp(node->word, allowed[i]) == 0) {
            *ret_index = i;
            return BASE_OK;
        }
    return rules_refuse_word(c, node, key, allowed, n);
}

enum base_code identity_flag(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             bool *value)
{
    const struct yaml_node *node = yaml_get(map, key);

    return node != NULL ? rules_bool(c, node, key, value) : BASE_OK;
}

bool identity_list_has(const struct pol_list *list, const char *text)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i], text) == 0)
            return true;
    return false;
}

static enum base_code add_to_list(const struct rules_ctx *c, const struct yaml_node *item, const char *key,
                                  identity_fault_fn *fault, struct pol_list *list)
{
    const char *text = NULL, *what;
    enum base_code rc = rules_word(c, item, key, &text);

    if (rc != BASE_OK)
        return rc;
    if (strlen(text) >= POL_TEXT_MAX)
        return rules_refuse(c, item, "an entry of %s has at most %u characters", key, POL_TEXT_MAX - 1);
    if (has_control(text))
        return rules_refuse(c, item, "%s may not hold control characters", key);
    what = fault != NULL ? fault(text) : NULL;
    if (what != NULL)
        return rules_refuse(c, item, "%s: \"%.40s\" %s", key, text, what);
    if (identity_list_has(list, text))
        return rules_refuse(c, item, "%s: \"%.40s\" stands there twice", key, text);
    list->items[list->n++] = text;
    return BASE_OK;
}

enum base_code identity_list(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                             identity_fault_fn *fault, struct pol_list *out)
{
    const struct yaml_node *node = yaml_get(map, key);
    struct pol_list list = {0};
    enum base_code rc = node != NULL ? rules_need(c, node, YAML_LIST, key) : BASE_OK;

    if (node == NULL || rc != BASE_OK)
        return rc;
    if (node->n > POL_LIST_MAX)
        return rules_refuse(c, node, "%s has at most %u entries, this one %zu", key, POL_LIST_MAX, node->n);
    for (size_t i = 0; rc == BASE_OK && i < node->n; i++)
        rc = add_to_list(c, node->items[i], key, fault, &list);
    if (rc == BASE_OK)
        *out = list;
    return rc;
}

enum base_code identity_name(const struct rules_ctx *c, const struct yaml_node *key, const char *what,
                             char name[POL_NAME_MAX])
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

    if (strspn(key->word, allowed) != strlen(key->word))
        return rules_refuse(c, key, "%s may hold only letters, digits, - and _", what);
    return rules_name(c, key, what, name);
}

/* ---- names of other sections ---- */

static enum base_code find_role(const struct rules_ctx *c, const struct yaml_node *node,
                                const char **ret_role)
{
    const struct pol_snapshot *s = c->snap;
    size_t index = 0;
    enum base_code rc = rules_find(c, node, "role", s->roles, sizeof(*s->roles), s->n_roles, &index);

    if (rc == BASE_OK)
        *ret_role = s->roles[index].name;
    return rc;
}

static enum base_code find_provider(const struct rules_ctx *c, const struct yaml_node *node,
                                    const struct pol_provider **ret_provider)
{
    const struct identity_rules *identity = &c->snap->identity;
    size_t index = 0;
    enum base_code rc = rules_find(c, node, "provider", identity->providers, sizeof(*identity->providers),
                                   identity->n_providers, &index);

    if (rc == BASE_OK)
        *ret_provider = &identity->providers[index];
    return rc;
}

/* ---- providers ---- */

static enum base_code read_providers(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct identity_rules *identity = &c->snap->identity;
    enum base_code rc = rules_section(c, node, "providers", POL_PROVIDERS_MAX, sizeof(*identity->providers),
                                      &identity->providers);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        struct pol_provider *provider = &identity->providers[i];

        rc = identity_read_provider(c, node->keys[i], node->items[i], provider);
        for (size_t k = 0; rc == BASE_OK && provider->kind == POL_PROVIDER_OIDC && k < i; k++)
            if (strcmp(identity->providers[k].issuer, provider->issuer) == 0)
                rc = rules_refuse(c, node->keys[i], "providers \"%s\" and \"%s\" have the same issuer",
                                  identity->providers[k].name, provider->name);
        identity->n_providers++;
    }
    return rc;
}

/* ---- mapping ---- */

/* `group: NAME`, or `claim: NAME` and `equals: VALUE`. */
static enum base_code read_condition(const struct rules_ctx *c, const struct yaml_node *node,
                                     struct mapping_rule *mapping)
{
    const struct yaml_node *group = yaml_get(node, "group"), *claim = yaml_get(node, "claim");
    const struct yaml_node *equals = yaml_get(node, "equals");
    enum base_code rc;

    if ((group == NULL) == (claim == NULL) || (claim == NULL) != (equals == NULL))
        return rules_refuse(c, node, "a mapping has either \"group\", or \"claim\" and \"equals\"");
    if (group != NULL)
        return rules_word(c, group, "group", &mapping->value);
    rc = rules_word(c, claim, "claim", &mapping->claim);
    if (rc == BASE_OK && strlen(mapping->claim) >= POL_CLAIM_MAX)
        return rules_refuse(c, claim, "claim has at most %u characters", POL_CLAIM_MAX - 1);
    return rc == BASE_OK ? rules_word(c, equals, "equals", &mapping->value) : rc;
}

static enum base_code read_mapping(const struct rules_ctx *c, const struct yaml_node *node,
                                   struct mapping_rule *mapping)
{
    static const char *const keys[] = {"role", "group", "claim", "equals", "provider"};
    enum base_code rc = rules_need_keys(c, node, "a mapping", keys, BASE_ARRAY_LEN(keys), 1);
    const struct yaml_node *provider = rc == BASE_OK ? yaml_get(node, "provider") : NULL;

    if (rc == BASE_OK)
        rc = read_condition(c, node, mapping);
    if (rc == BASE_OK)
        rc = find_role(c, yaml_get(node, "role"), &mapping->role);
    if (rc == BASE_OK && provider != NULL)
        rc = find_provider(c, provider, &mapping->provider);
    return rc;
}

static enum base_code read_mappings(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct identity_rules *identity = &c->snap->identity;
    enum base_code rc = rules_need(c, node, YAML_LIST, "mapping");
    const char *names[POL_LIST_MAX * 4];

    if (rc != BASE_OK)
        return rc;
    if (node->n == 0 || node->n > POL_MAPPINGS_MAX)
        return rules_refuse(c, node, "mapping has 1 to %u entries, this one %zu", POL_MAPPINGS_MAX, node->n);
    identity->mappings = base_arena_alloc(c->snap->arena, node->n * sizeof(*identity->mappings));
    if (identity->mappings == NULL)
        return rules_refuse(c, node, "the document holds too much");
    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_mapping(c, node->items[i], &identity->mappings[i]);
        identity->n_mappings++;
    }
    /* one place is kept free, so that a full list is known to be whole */
    for (size_t i = 0; rc == BASE_OK && i < identity->n_providers; i++)
        if (pol_claims_wanted(c->snap, &identity->providers[i], names) == POL_LIST_MAX * 4)
            rc = rules_refuse(c, node, "mapping reads more than %u claims of provider \"%s\"",
                              POL_LIST_MAX * 4 - 1, identity->providers[i].name);
    return rc;
}

/* ---- service accounts ---- */

/* As openssl prints it (AA:BB:...) or plain; kept as plain lower-case hex. */
static enum base_code read_fingerprint(const struct rules_ctx *c, const struct yaml_node *node,
                                       char out[FINGERPRINT + 1])
{
    enum base_code rc = node != NULL ? rules_need(c, node, YAML_WORD, "cert_sha256") : BASE_OK;
    size_t n = 0;

    if (node == NULL || rc != BASE_OK)
        return rc;
    for (const char *p = node->word; *p != '\0'; p++) {
        if (*p == ':' && n > 0 && n % 2 == 0 && p[1] != ':')
            continue;
        if (n == FINGERPRINT || strchr("0123456789abcdefABCDEF", *p) == NULL)
            n = FINGERPRINT + 1;
        if (n > FINGERPRINT)
            break;
        out[n++] = *p >= 'A' && *p <= 'F' ? (char)(*p - 'A' + 'a') : *p;
    }
    if (n != FINGERPRINT) {
        memset(out, 0, FINGERPRINT + 1);
        return rules_refuse(
            c, node,
            "cert_sha256 must be the SHA-256 of a certificate: 64 hex digits, as openssl x509 "
            "-fingerprint -sha256 prints them");
    }
    out[FINGERPRINT] = '\0';
    return BASE_OK;
}

static enum base_code read_account_roles(const struct rules_ctx *c, const struct yaml_node *list,
                                         struct pol_service_account *account)
{
    enum base_code rc = rules_need(c, list, YAML_LIST, "a service account's roles");

    if (rc == BASE_OK && (list->n == 0 || list->n > POL_LIST_MAX))
        return rules_refuse(c, list, "a service account has 1 to %u roles, this one %zu", POL_LIST_MAX,
                            list->n);
    for (size_t i = 0; rc == BASE_OK && i < list->n; i++) {
        rc = find_role(c, list->items[i], &account->roles[i]);
        account->n_roles++;
    }
    return rc;
}

/* `provider` and `client_id` together; the provider must take access tokens. */
static enum base_code read_account_client(const struct rules_ctx *c, const struct yaml_node *node,
                                          struct pol_service_account *account)
{
    const struct yaml_node *name = yaml_get(node, "provider"), *client = yaml_get(node, "client_id");
    const struct pol_provider *provider = NULL;
    enum base_code rc;

    if ((name == NULL) != (client == NULL))
        return rules_refuse(c, node, "a service account has \"provider\" and \"client_id\" together");
    if (name == NULL)
        return BASE_OK;
    rc = find_provider(c, name, &provider);
    if (rc != BASE_OK)
        return rc;
    if (provider->bearer_audiences.n == 0 && provider->scim_audiences.n == 0)
        return rules_refuse(c, name, "provider \"%s\" takes no access tokens: it has no oidc.bearer",
                            provider->name);
    memcpy(account->provider, provider->name, POL_NAME_MAX);
    return identity_text(c, node, "client_id", NULL, account->client_id, sizeof(account->client_id));
}

/* Each credential is one account's alone: who else would it be? */
static const char *same_credential(const struct pol_service_account *a, const struct pol_service_account *b)
{
    if (a->cert_sha256[0] != '\0' && strcmp(a->cert_sha256, b->cert_sha256) == 0)
        return "certificate";
    if (a->provider[0] != '\0' && strcmp(a->provider, b->provider) == 0 &&
        strcmp(a->client_id, b->client_id) == 0)
        return "client";
    return NULL;
}

static enum base_code read_account(const struct rules_ctx *c, const struct yaml_node *key,
                                   const struct yaml_node *node, size_t index)
{
    static const char *const keys[] = {"roles", "cert_sha256", "provider", "client_id"};
    struct pol_service_account *accounts = c->snap->identity.accounts, *account = &accounts[index];
    enum base_code rc = identity_name(c, key, "a service account's name", account->name);

    if (rc == BASE_OK)
        rc = rules_need_keys(c, node, "a service account", keys, BASE_ARRAY_LEN(keys), 1);
    if (rc == BASE_OK)
        rc = read_account_roles(c, yaml_get(node, "roles"), account);
    if (rc == BASE_OK)
        rc = read_fingerprint(c, yaml_get(node, "cert_sha256"), account->cert_sha256);
    if (rc == BASE_OK)
        rc = read_account_client(c, node, account);
    for (size_t i = 0; rc == BASE_OK && i < index; i++) {
        const char *same = same_credential(account, &accounts[i]);

        if (same != NULL)
            rc = rules_refuse(c, key, "service accounts \"%s\" and \"%s\" have the same %s", accounts[i].name,
                              account->name, same);
    }
    return rc;
}

static enum base_code read_accounts(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct identity_rules *identity = &c->snap->identity;
    enum base_code rc = rules_section(c, node, "service_accounts", POL_ACCOUNTS_MAX,
                                      sizeof(*identity->accounts), &identity->accounts);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_account(c, node->keys[i], node->items[i], i);
        identity->n_accounts++;
    }
    return rc;
}

/* ---- SCIM ---- */

static bool any_scim_audience(const struct identity_rules *identity)
{
    for (size_t i = 0; i < identity->n_providers; i++)
        if (identity->providers[i].scim_audiences.n > 0)
            return true;
    return false;
}

static enum base_code read_scim(const struct rules_ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"token_file", "key"}, *const scim_keys[] = {"userName", "externalId"};
    struct pol_identity *pub = &c->snap->identity.pub;
    enum base_code rc = rules_need_keys(c, node, "scim", keys, BASE_ARRAY_LEN(keys), 0);
    unsigned key = 0;

    if (rc == BASE_OK)
        rc = identity_path(c, node, "token_file", pub->scim_token_file);
    if (rc == BASE_OK)
        rc = identity_choice(c, node, "key", scim_keys, BASE_ARRAY_LEN(scim_keys), &key);
    if (rc == BASE_OK && pub->scim_token_file[0] == '\0' && !any_scim_audience(&c->snap->identity))
        rc =
            rules_refuse(c, node,
                         "scim needs token_file, or a provider with oidc.bearer.scim_audiences: nobody could "
                         "come to it");
    snprintf(pub->scim_key, sizeof(pub->scim_key), "%s", scim_keys[key]);
    pub->scim = rc == BASE_OK;
    return rc;
}

static enum base_code check_directory(const struct rules_ctx *c, const struct yaml_node *node)
{
    const struct identity_rules *identity = &c->snap->identity;

    for (size_t i = 0; i < identity->n_providers; i++)
        if (identity->providers[i].directory_required && !identity->pub.scim)
            return rules_refuse(
                c, node, "provider \"%s\" has directory_required, and there is no scim: nobody could come in",
                identity->providers[i].name);
    return BASE_OK;
}

/* ---- the section ---- */

static enum base_code read_general(const struct rules_ctx *c, const struct yaml_node *node)
{
    static const char *const combine[] = {"larger", "strict"};
    struct pol_identity *pub = &c->snap->identity.pub;
    const struct yaml_node *role = yaml_get(node, "default_role");
    const char *name = NULL;
    unsigned strict = 0;
    enum base_code rc = role != NULL ? find_role(c, role, &name) : BASE_OK;

    if (rc == BASE_OK && name != NULL)
        memcpy(pub->default_role, name, strlen(name) + 1);
    if (rc == BASE_OK)
        rc = identity_choice(c, node, "combine", combine, BASE_ARRAY_LEN(combine), &strict);
    pub->strict = strict == 1;
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "break_glass", &pub->break_glass);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "refresh_s", REFRESH_S_MIN, REFRESH_S_MAX, pub->refresh_s, &pub->refresh_s);
    return rc;
}

enum base_code rules_read_identity(const struct rules_ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"default_role", "combine", "break_glass",      "refresh_s",
                                       "providers",    "mapping", "service_accounts", "scim"};
    static enum base_code (*const sections[])(const struct rules_ctx *, const struct yaml_node *) = {
        read_providers, read_mappings, read_accounts, read_scim};
    static const char *const names[] = {"providers", "mapping", "service_accounts", "scim"};
    struct pol_identity *pub = &c->snap->identity.pub;
    enum base_code rc;

    pub->refresh_s = 900;
    snprintf(pub->scim_key, sizeof(pub->scim_key), "userName");
    if (node == NULL)
        return BASE_OK;
    rc = rules_need_keys(c, node, "identity", keys, BASE_ARRAY_LEN(keys), 0);
    if (rc == BASE_OK)
        rc = read_general(c, node);
    for (size_t i = 0; rc == BASE_OK && i < BASE_ARRAY_LEN(sections); i++) {
        const struct yaml_node *part = yaml_get(node, names[i]);

        if (part != NULL)
            rc = sections[i](c, part);
    }
    return rc == BASE_OK ? check_directory(c, node) : rc;
}

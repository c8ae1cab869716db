/* From document to snapshot: see rules.h. One function per section, in the order in which names are needed:
 * classes, backends, models, limits, guards, roles; identity is in identity.c. */
#include "policy/rules.h"
#include "policy/rules_value.h"

#include "base/mem.h"
#include "base/str.h"

#include <string.h>

#define MARKING_MAX    64u
#define TIMEOUT_MS_MAX (24u * 3600u * 1000u)
#define RATE_MAX       1000000000u

/* ---- classes ---- */

static enum base_code add_marking(const struct rules_ctx *c, const struct yaml_node *node, enum pol_class cls)
{
    struct pol_snapshot *s = c->snap;
    const char *text = NULL;
    enum base_code rc = rules_word(c, node, "a marking", &text);

    if (rc != BASE_OK)
        return rc;
    if (strlen(text) > MARKING_MAX || strlen(text) < 3)
        return rules_refuse(c, node, "a marking has 3 to %u characters", MARKING_MAX);
    for (const char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            return rules_refuse(c, node, "a marking may hold only ASCII characters");
    if (text[0] == ' ' || text[strlen(text) - 1] == ' ')
        return rules_refuse(c, node, "a marking may not begin or end with a blank");
    if (s->n_markings == SNAPSHOT_MARKINGS_MAX)
        return rules_refuse(c, node, "more than %u markings", SNAPSHOT_MARKINGS_MAX);
    s->markings[s->n_markings++] = (struct marking){.text = text, .cls = cls};
    return BASE_OK;
}

static enum base_code read_markings(const struct rules_ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"public", "internal", "confidential", "secret"};
    enum base_code rc = rules_need_keys(c, node, "markings", keys, BASE_ARRAY_LEN(keys), 0);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        const struct yaml_node *list = node->items[i];

        rc = rules_need(c, list, YAML_LIST, "the markings of a class");
        for (size_t k = 0; rc == BASE_OK && k < list->n; k++)
            rc = add_marking(c, list->items[k],
                             pol_class_parse(node->keys[i]->word, strlen(node->keys[i]->word)));
    }
    return rc;
}

/* keys: the detectors' names. */
static size_t detector_names(const char **names)
{
    for (int d = 1; d < POL_DETECT_COUNT; d++)
        names[d - 1] = pol_detector_name((enum pol_detector)d);
    return POL_DETECT_COUNT - 1;
}

static enum base_code read_detector_classes(const struct rules_ctx *c, const struct yaml_node *node)
{
    const char *names[POL_DETECT_COUNT];
    size_t n = detector_names(names);
    enum base_code rc = rules_need_keys(c, node, "detectors", names, n, 0);

    for (size_t d = 1; rc == BASE_OK && d < POL_DETECT_COUNT; d++) {
        const struct yaml_node *cls = yaml_get(node, names[d - 1]);

        if (cls != NULL)
            rc = rules_class(c, cls, &c->snap->detector_class[d]);
    }
    return rc;
}

static enum base_code read_classes(const struct rules_ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"default", "markings", "markings_ignore_case", "detectors"};
    static const enum pol_class detector_default[POL_DETECT_COUNT] = {
        [POL_DETECT_CARD] = POL_CONFIDENTIAL,  [POL_DETECT_IBAN] = POL_CONFIDENTIAL,
        [POL_DETECT_EMAIL] = POL_INTERNAL,     [POL_DETECT_PRIVATE_KEY] = POL_SECRET,
        [POL_DETECT_AWS_KEY] = POL_SECRET,     [POL_DETECT_GITHUB_TOKEN] = POL_SECRET,
        [POL_DETECT_SLACK_TOKEN] = POL_SECRET, [POL_DETECT_JWT] = POL_CONFIDENTIAL,
    };
    const struct yaml_node *part;
    enum base_code rc = rules_need_keys(c, node, "classes", keys, BASE_ARRAY_LEN(keys), 1);

    memcpy(c->snap->detector_class, detector_default, sizeof(detector_default));
    c->snap->markings = base_arena_alloc(c->snap->arena, SNAPSHOT_MARKINGS_MAX * sizeof(struct marking));
    if (rc == BASE_OK)
        rc = rules_class(c, yaml_get(node, "default"), &c->snap->default_class);
    part = yaml_get(node, "markings");
    if (rc == BASE_OK && part != NULL)
        rc = read_markings(c, part);
    part = yaml_get(node, "markings_ignore_case");
    if (rc == BASE_OK && part != NULL)
        rc = rules_bool(c, part, "markings_ignore_case", &c->snap->markings_ignore_case);
    part = yaml_get(node, "detectors");
    if (rc == BASE_OK && part != NULL)
        rc = read_detector_classes(c, part);
    return rc;
}

/* ---- backends ---- */

static bool is_device(const char *s)
{
    if (strncmp(s, "cuda:", 5) == 0)
        return s[5] >= '0' && s[5] <= '9' && strspn(s + 5, "0123456789") == strlen(s + 5) && strlen(s) <= 7;
    return strcmp(s, "auto") == 0 || strcmp(s, "cpu") == 0 || strcmp(s, "cuda") == 0;
}

static enum base_code read_engine(const struct rules_ctx *c, const struct yaml_node *node,
                                  struct pol_backend *backend)
{
    static const char *const keys[] = {"file",      "context_tokens", "max_sequences",
                                       "queue_max", "threads",        "device"};
    enum base_code rc = rules_need_keys(c, node, "engine", keys, BASE_ARRAY_LEN(keys), 1);
    const struct yaml_node *device = yaml_get(node, "device");

    backend->kind = POL_BACKEND_ENGINE;
    if (rc == BASE_OK)
        rc = rules_path(c, node, "file", &backend->file);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "context_tokens", 0, 1u << 24, 0, &backend->context_tokens);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "max_sequences", 0, 65536, 0, &backend->max_sequences);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "queue_max", 0, 65536, 0, &backend->queue_max);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "threads", 0, 1024, 0, &backend->threads);
    if (rc == BASE_OK && device != NULL)
        rc = rules_word(c, device, "device", &backend->device);
    if (rc == BASE_OK && device != NULL && !is_device(backend->device))
        rc = rules_refuse(c, device,
                          "device is auto, cpu, cuda or cuda:N (cuda:0 is the first), not \"%.40s\"",
                          backend->device);
    return rc;
}

static bool is_host(const char *s, size_t n)
{
    if (n == 0 || n > 255)
        return false;
    if (s[0] == '[') /* IPv6 */
        return n > 3 && s[n - 1] == ']' && strspn(s + 1, "0123456789abcdefABCDEF:.") == n - 2;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") >= n &&
           s[0] != '.' && s[0] != '-';
}

static const char *base_url_fault(const char *url)
{
    static const char scheme[] = "https://";
    static const char path_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~/-";
    const char *host = url + strlen(scheme), *end, *port;
    uint64_t number;

    if (strncmp(url, scheme, strlen(scheme)) != 0)
        return "must begin with https://";
    if (strpbrk(url, "?#@") != NULL)
        return "may not hold user information, a query or a fragment (? # @)";
    end = host + strcspn(host, "/");
    port = host[0] == '[' ? memchr(host, ']', (size_t)(end - host)) : host;
    port = port != NULL ? memchr(port, ':', (size_t)(end - port)) : NULL;
    if (port != NULL &&
        (base_parse_u64(port + 1, (size_t)(end - port - 1), 65535, &number) != BASE_OK || number == 0))
        return "has a port that is no number from 1 to 65535";
    if (!is_host(host, (size_t)((port != NULL ? port : end) - host)))
        return "has no valid host name";
    if (strspn(end, path_chars) != strlen(end) || strstr(end, "..") != NULL || strstr(end, "//") != NULL)
        return "has a path with characters that are not allowed";
    if (end[0] == '\0' || end[strlen(end) - 1] == '/')
        return "must end with a path such as /v1, without a slash at its end";
    return NULL;
}

static enum base_code read_provider(const struct rules_ctx *c, const struct yaml_node *node,
                                    struct pol_backend *backend)
{
    static const char *const keys[] = {"base_url",           "api_key_file",          "ca_file",
                                       "connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms",
                                       "total_timeout_ms"};
    enum base_code rc = rules_need_keys(c, node, "provider", keys, BASE_ARRAY_LEN(keys), 1);
    const struct yaml_node *url = yaml_get(node, "base_url");
    const char *fault;

    backend->kind = POL_BACKEND_PROVIDER;
    if (rc == BASE_OK)
        rc = rules_word(c, url, "base_url", &backend->base_url);
    fault = rc == BASE_OK ? base_url_fault(backend->base_url) : NULL;
    if (fault != NULL)
        return rules_refuse(c, url, "base_url %s", fault);
    if (rc == BASE_OK)
        rc = rules_path(c, node, "api_key_file", &backend->api_key_file);
    if (rc == BASE_OK)
        rc = rules_path(c, node, "ca_file", &backend->ca_file);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "connect_timeout_ms", 1, TIMEOUT_MS_MAX, 5000, &backend->connect_timeout_ms);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "first_byte_timeout_ms", 1, TIMEOUT_MS_MAX, 30000,
                       &backend->first_byte_timeout_ms);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "idle_timeout_ms", 1, TIMEOUT_MS_MAX, 30000, &backend->idle_timeout_ms);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "total_timeout_ms", 1, TIMEOUT_MS_MAX, 600000, &backend->total_timeout_ms);
    return rc;
}

static enum base_code read_backend(const struct rules_ctx *c, const struct yaml_node *key,
                                   const struct yaml_node *node, struct pol_backend *backend)
{
    static const char *const keys[] = {"max_class", "engine", "provider"};
    enum base_code rc = rules_name(c, key, "a backend's name", backend->name);
    const struct yaml_node *engine, *provider;

    if (rc == BASE_OK)
        rc = rules_need_keys(c, node, "a backend", keys, BASE_ARRAY_LEN(keys), 1);
    if (rc == BASE_OK)
        rc = rules_class(c, yaml_get(node, "max_class"), &backend->max_class);
    engine = yaml_get(node, "engine");
    provider = yaml_get(node, "provider");
    if (rc != BASE_OK)
        return rc;
    if ((engine == NULL) == (provider == NULL))
        return rules_refuse(c, key, "backend \"%s\" must have either \"engine\" or \"provider\"",
                            backend->name);
    return engine != NULL ? read_engine(c, engine, backend) : read_provider(c, provider, backend);
}

static enum base_code read_backends(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc =
        rules_section(c, node, "backends", POL_BACKENDS_MAX, sizeof(*s->backends), &s->backends);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_backend(c, node->keys[i], node->items[i], &s->backends[i]);
        s->n_backends++;
    }
    return rc;
}

/* ---- models ---- */

static enum base_code read_route(const struct rules_ctx *c, const struct yaml_node *node, const char *model,
                                 struct route_rule *route)
{
    static const char *const keys[] = {"backend", "model"};
    const struct yaml_node *upstream;
    enum base_code rc = rules_need_keys(c, node, "a route", keys, BASE_ARRAY_LEN(keys), 1);
    size_t index = 0;

    if (rc == BASE_OK)
        rc = rules_find(c, yaml_get(node, "backend"), "backend", c->snap->backends,
                        sizeof(*c->snap->backends), c->snap->n_backends, &index);
    if (rc != BASE_OK)
        return rc;
    route->backend = &c->snap->backends[index];
    upstream = yaml_get(node, "model");
    if (upstream != NULL)
        return rules_name(c, upstream, "a route's model", route->upstream_model);
    memcpy(route->upstream_model, model, POL_NAME_MAX);
    return BASE_OK;
}

static enum base_code read_model(const struct rules_ctx *c, const struct yaml_node *key,
                                 const struct yaml_node *node, struct model_rule *model)
{
    static const char *const keys[] = {"routes", "description"};
    const struct yaml_node *routes, *description;
    enum base_code rc = rules_name(c, key, "a model's name", model->pub.name);

    if (rc == BASE_OK)
        rc = rules_need_keys(c, node, "a model", keys, BASE_ARRAY_LEN(keys), 1);
    model->pub.description = "";
    description = yaml_get(node, "description");
    if (rc == BASE_OK && description != NULL)
        rc = rules_word(c, description, "description", &model->pub.description);
    routes = yaml_get(node, "routes");
    if (rc == BASE_OK)
        rc = rules_need(c, routes, YAML_LIST, "routes");
    if (rc != BASE_OK)
        return rc;
    if (routes->n == 0 || routes->n > POL_ROUTES_MAX)
        return rules_refuse(c, routes, "a model has 1 to %u routes, this one %zu", POL_ROUTES_MAX, routes->n);
    model->pub.local_only = true;
    for (; rc == BASE_OK && model->n_routes < routes->n; model->n_routes++) {
        struct route_rule *route = &model->routes[model->n_routes];

        rc = read_route(c, routes->items[model->n_routes], model->pub.name, route);
        if (rc != BASE_OK)
            break;
        if (route->backend->max_class > model->pub.max_class)
            model->pub.max_class = route->backend->max_class;
        if (route->backend->kind != POL_BACKEND_ENGINE)
            model->pub.local_only = false;
    }
    return rc;
}

static enum base_code read_models(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = rules_section(c, node, "models", POL_MODELS_MAX, sizeof(*s->models), &s->models);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_model(c, node->keys[i], node->items[i], &s->models[i]);
        s->n_models++;
    }
    return rc;
}

/* ---- limits ---- */

static enum base_code read_fail_mode(const struct rules_ctx *c, const struct yaml_node *node,
                                     enum pol_fail_mode *ret_mode)
{
    static const char *const words[] = {"closed", "open"};
    enum base_code rc;

    *ret_mode = POL_FAIL_CLOSED;
    if (node == NULL)
        return BASE_OK;
    rc = rules_need(c, node, YAML_WORD, "on_store_failure");
    if (rc != BASE_OK)
        return rc;
    if (strcmp(node->word, "open") == 0)
        *ret_mode = POL_FAIL_OPEN;
    else if (strcmp(node->word, "closed") != 0)
        return rules_refuse_word(c, node, "value", words, BASE_ARRAY_LEN(words));
    return BASE_OK;
}

static enum base_code read_limit(const struct rules_ctx *c, const struct yaml_node *key,
                                 const struct yaml_node *node, struct pol_limits *limits)
{
    static const char *const keys[] = {"requests_per_minute", "tokens_per_minute", "requests_burst",
                                       "tokens_burst", "on_store_failure"};
    enum base_code rc = rules_name(c, key, "a limit's name", limits->name);

    if (rc == BASE_OK)
        rc = rules_need_keys(c, node, "a limit", keys, BASE_ARRAY_LEN(keys), 2);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "requests_per_minute", 0, RATE_MAX, 0, &limits->requests_per_minute);
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "requests_burst", 1, RATE_MAX, limits->requests_per_minute,
                       &limits->requests_burst);
    if (rc == BASE_OK)
        rc = rules_number(c, node, "tokens_per_minute", 0, RATE_MAX, 0, &limits->tokens_per_minute);
    if (rc == BASE_OK)
        rc = rules_number(c, node, "tokens_burst", 1, RATE_MAX, limits->tokens_per_minute,
                          &limits->tokens_burst);
    if (rc == BASE_OK)
        rc = read_fail_mode(c, yaml_get(node, "on_store_failure"), &limits->fail_mode);
    return rc;
}

static enum base_code read_limits(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = rules_section(c, node, "limits", SNAPSHOT_LIMITS_MAX, sizeof(*s->limits), &s->limits);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_limit(c, node->keys[i], node->items[i], &s->limits[i]);
        s->n_limits++;
    }
    return rc;
}

/* ---- guards ---- */

static enum base_code read_action(const struct rules_ctx *c, const struct yaml_node *node, bool is_input,
                                  enum pol_action *ret_action)
{
    static const char *const words[] = {"allow", "tag", "mask", "block", "force_local"};
    enum base_code rc = rules_need(c, node, YAML_WORD, "an action");

    if (rc != BASE_OK)
        return rc;
    for (int a = POL_ACTION_ALLOW; a <= POL_ACTION_BLOCK; a++)
        if (strcmp(node->word, pol_action_name((enum pol_action)a)) == 0) {
            if (a == POL_ACTION_FORCE_LOCAL && !is_input)
                return rules_refuse(c, node,
                                    "force_local is for input only; the answer has already left its model");
            *ret_action = (enum pol_action)a;
            return BASE_OK;
        }
    return rules_refuse_word(c, node, "action", words, is_input ? 5 : 4);
}

static enum base_code read_actions(const struct rules_ctx *c, const struct yaml_node *node, bool is_input,
                                   enum pol_action *actions)
{
    const char *names[POL_DETECT_COUNT];
    size_t n = detector_names(names);
    enum base_code rc;

    if (node == NULL)
        return BASE_OK;
    rc = rules_need_keys(c, node, is_input ? "input" : "output", names, n, 0);
    for (size_t d = 1; rc == BASE_OK && d < POL_DETECT_COUNT; d++) {
        const struct yaml_node *action = yaml_get(node, names[d - 1]);

        if (action != NULL)
            rc = read_action(c, action, is_input, &actions[d]);
    }
    return rc;
}

static enum base_code read_guards(const struct rules_ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"input", "output"};
    struct pol_snapshot *s = c->snap;
    enum base_code rc = rules_section(c, node, "guards", SNAPSHOT_GUARDS_MAX, sizeof(*s->guards), &s->guards);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++, s->n_guards++) {
        struct pol_guard *guard = &s->guards[i];

        rc = rules_name(c, node->keys[i], "a guard's name", guard->name);
        if (rc == BASE_OK)
            rc = rules_need_keys(c, node->items[i], "a guard", keys, BASE_ARRAY_LEN(keys), 0);
        if (rc == BASE_OK)
            rc = read_actions(c, yaml_get(node->items[i], "input"), true, guard->input);
        if (rc == BASE_OK)
            rc = read_actions(c, yaml_get(node->items[i], "output"), false, guard->output);
    }
    return rc;
}

/* ---- roles ---- */

/* Sets the bit of each model that the list names. */
static enum base_code read_model_set(const struct rules_ctx *c, const struct yaml_node *list,
                                     const char *what, uint64_t *models)
{
    enum base_code rc = rules_need(c, list, YAML_LIST, what);

    for (size_t i = 0; rc == BASE_OK && i < list->n; i++) {
        const struct yaml_node *item = list->items[i];
        size_t index = 0;

        if (item->kind == YAML_WORD && strcmp(item->word, "*") == 0) {
            for (size_t m = 0; m < c->snap->n_models; m++)
                models[m / 64] |= (uint64_t)1 << (m % 64);
            continue;
        }
        rc = rules_find(c, item, "model", c->snap->models, sizeof(*c->snap->models), c->snap->n_models,
                        &index);
        if (rc == BASE_OK)
            models[index / 64] |= (uint64_t)1 << (index % 64);
    }
    return rc;
}

static enum base_code read_role(const struct rules_ctx *c, const struct yaml_node *key,
                                const struct yaml_node *node, struct role_rule *role)
{
    static const char *const keys[] = {"models", "max_class", "limits", "guard", "deny_models"};
    struct pol_snapshot *s = c->snap;
    const struct yaml_node *denied;
    enum base_code rc = rules_name(c, key, "a role's name", role->name);
    size_t limits = 0, guard = 0;

    if (rc == BASE_OK)
        rc = rules_need_keys(c, node, "a role", keys, BASE_ARRAY_LEN(keys), 4);
    if (rc == BASE_OK)
        rc = read_model_set(c, yaml_get(node, "models"), "a role's models", role->models);
    denied = rc == BASE_OK ? yaml_get(node, "deny_models") : NULL;
    if (denied != NULL)
        rc = read_model_set(c, denied, "a role's deny_models", role->denied);
    if (rc == BASE_OK)
        rc = rules_class(c, yaml_get(node, "max_class"), &role->max_class);
    if (rc == BASE_OK)
        rc = rules_find(c, yaml_get(node, "limits"), "limit", s->limits, sizeof(*s->limits), s->n_limits,
                        &limits);
    if (rc == BASE_OK)
        rc = rules_find(c, yaml_get(node, "guard"), "guard", s->guards, sizeof(*s->guards), s->n_guards,
                        &guard);
    if (rc != BASE_OK)
        return rc;
    role->limits = &s->limits[limits];
    role->guard = &s->guards[guard];
    return BASE_OK;
}

static enum base_code read_roles(const struct rules_ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = rules_section(c, node, "roles", POL_ROLES_MAX, sizeof(*s->roles), &s->roles);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_role(c, node->keys[i], node->items[i], &s->roles[i]);
        s->n_roles++;
    }
    return rc;
}

/* ---- the document ---- */

static enum base_code read_version(const struct rules_ctx *c, const struct yaml_node *node)
{
    if (node->kind == YAML_WORD && !node->quoted && strcmp(node->word, "1") == 0)
        return BASE_OK;
    return rules_refuse(c, node, "version must be 1; this program knows no other");
}

enum base_code rules_read(struct pol_snapshot *snapshot, const char *name, const struct yaml_node *root,
                          struct base_err *err)
{
    static const char *const keys[] = {"version", "classes", "backends", "models",
                                       "limits",  "guards",  "roles",    "identity"};
    const struct rules_ctx c = {.snap = snapshot, .name = name, .err = err};
    enum base_code rc =
        rules_need_keys(&c, root, "the document", keys, BASE_ARRAY_LEN(keys), BASE_ARRAY_LEN(keys) - 1);

    if (rc == BASE_OK)
        rc = read_version(&c, yaml_get(root, "version"));
    if (rc == BASE_OK)
        rc = read_classes(&c, yaml_get(root, "classes"));
    if (rc == BASE_OK)
        rc = read_backends(&c, yaml_get(root, "backends"));
    if (rc == BASE_OK)
        rc = read_models(&c, yaml_get(root, "models"));
    if (rc == BASE_OK)
        rc = read_limits(&c, yaml_get(root, "limits"));
    if (rc == BASE_OK)
        rc = read_guards(&c, yaml_get(root, "guards"));
    if (rc == BASE_OK)
        rc = read_roles(&c, yaml_get(root, "roles"));
    if (rc == BASE_OK)
        rc = rules_read_identity(&c, yaml_get(root, "identity"));
    if (rc == BASE_OK)
        rules_warn(snapshot);
    return rc;
}

/* From document to snapshot: see rules.h. One function per section, in the order in which names are needed:
 * classes, backends, models, limits, guards, roles. */
#include "policy/rules.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX       4096u
#define MARKING_MAX    64u
#define TIMEOUT_MS_MAX (24u * 3600u * 1000u)
#define RATE_MAX       1000000000u

struct ctx {
    struct pol_snapshot *snap;
    const char *name;
    struct base_err *err;
};

/* ---- messages ---- */

static enum base_code refuse(const struct ctx *c, const struct yaml_node *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static enum base_code refuse(const struct ctx *c, const struct yaml_node *at, const char *fmt, ...)
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
static enum base_code refuse_word(const struct ctx *c, const struct yaml_node *at, const char *what,
                                  const char *const *allowed, size_t n)
{
    const char *near = nearest(at->word, allowed, n);
    char list[160] = "";

    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(list);

        snprintf(list + used, sizeof(list) - used, "%s%s", i > 0 ? ", " : "", allowed[i]);
    }
    if (near != NULL)
        return refuse(c, at, "unknown %s \"%.40s\"; did you mean \"%s\"?", what, at->word, near);
    return refuse(c, at, "unknown %s \"%.40s\"; allowed: %s", what, at->word,
                  n > 0 ? list : "none is defined");
}

/* ---- values ---- */

static enum base_code need(const struct ctx *c, const struct yaml_node *node, enum yaml_kind kind,
                           const char *what)
{
    static const char *const kinds[] = {"a word or number", "a map (key: value)", "a list"};

    if (node->kind == kind && (kind != YAML_WORD || node->word[0] != '\0'))
        return BASE_OK;
    return refuse(c, node, "%s must be %s", what, kinds[kind]);
}

/* A map that has no key but the allowed ones, and every one of the first n_required. */
static enum base_code need_keys(const struct ctx *c, const struct yaml_node *node, const char *what,
                                const char *const *allowed, size_t n, size_t n_required)
{
    enum base_code rc = need(c, node, YAML_MAP, what);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        bool known = false;

        for (size_t k = 0; k < n && !known; k++)
            known = strcmp(node->keys[i]->word, allowed[k]) == 0;
        if (!known)
            rc = refuse_word(c, node->keys[i], "key", allowed, n);
    }
    for (size_t k = 0; rc == BASE_OK && k < n_required; k++)
        if (yaml_get(node, allowed[k]) == NULL)
            rc = refuse(c, node, "%s lacks the key \"%s\"", what, allowed[k]);
    return rc;
}

static enum base_code read_number(const struct ctx *c, const struct yaml_node *map, const char *key,
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
        return refuse(c, node, "%s must be a whole number from %llu to %llu", key, (unsigned long long)min,
                      (unsigned long long)max);
    *ret_value = value;
    return BASE_OK;
}

static enum base_code read_u32(const struct ctx *c, const struct yaml_node *map, const char *key,
                               uint32_t min, uint32_t max, uint32_t absent, uint32_t *ret_value)
{
    uint64_t value = 0;
    enum base_code rc = read_number(c, map, key, min, max, absent, &value);

    if (rc == BASE_OK)
        *ret_value = (uint32_t)value;
    return rc;
}

static enum base_code read_class(const struct ctx *c, const struct yaml_node *node, enum pol_class *ret_class)
{
    static const char *const names[] = {"public", "internal", "confidential", "secret"};
    enum base_code rc = need(c, node, YAML_WORD, "a class");
    enum pol_class cls;

    if (rc != BASE_OK)
        return rc;
    cls = pol_class_parse(node->word, strlen(node->word));
    if (cls == POL_CLASS_UNKNOWN)
        return refuse_word(c, node, "class", names, BASE_ARRAY_LEN(names));
    *ret_class = cls;
    return BASE_OK;
}

static enum base_code read_name(const struct ctx *c, const struct yaml_node *node, const char *what,
                                char ret_name[POL_NAME_MAX])
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/-";
    enum base_code rc = need(c, node, YAML_WORD, what);
    size_t len;

    if (rc != BASE_OK)
        return rc;
    len = strlen(node->word);
    if (len >= POL_NAME_MAX)
        return refuse(c, node, "%s is %zu characters long; at most %u", what, len, POL_NAME_MAX - 1);
    if (strspn(node->word, allowed) != len)
        return refuse(c, node, "%s may hold only letters, digits and . _ : / -", what);
    memcpy(ret_name, node->word, len + 1);
    return BASE_OK;
}

static enum base_code keep_word(const struct ctx *c, const struct yaml_node *node, const char *what,
                                const char **ret_word)
{
    enum base_code rc = need(c, node, YAML_WORD, what);

    if (rc != BASE_OK)
        return rc;
    if (strlen(node->word) > WORD_MAX)
        return refuse(c, node, "%s is too long", what);
    *ret_word = base_arena_dup(c->snap->arena, node->word, strlen(node->word));
    return *ret_word != NULL ? BASE_OK : refuse(c, node, "the document holds too much text");
}

/* A relative path is one from the policy file's folder. An absent key leaves NULL. */
static enum base_code read_path(const struct ctx *c, const struct yaml_node *map, const char *key,
                                const char **ret_path)
{
    const struct yaml_node *node = yaml_get(map, key);
    const char *slash = strrchr(c->name, '/'), *word = NULL;
    enum base_code rc = node != NULL ? keep_word(c, node, key, &word) : BASE_OK;

    if (rc == BASE_OK && word != NULL && word[0] != '/' && slash != NULL) {
        size_t folder = (size_t)(slash - c->name) + 1, len = strlen(word);
        char *path = base_arena_alloc(c->snap->arena, folder + len + 1);

        if (path == NULL)
            return refuse(c, node, "the document holds too much text");
        memcpy(path, c->name, folder);
        memcpy(path + folder, word, len + 1);
        word = path;
    }
    if (rc == BASE_OK)
        *ret_path = word;
    return rc;
}

/* Makes room for one element per key of a section; NULL past the section's limit. */
static enum base_code section(const struct ctx *c, const struct yaml_node *node, const char *what, size_t max,
                              size_t element, void *ret_array)
{
    enum base_code rc = need(c, node, YAML_MAP, what);
    void *array;

    if (rc != BASE_OK)
        return rc;
    if (node->n == 0 || node->n > max)
        return refuse(c, node, "%s must have 1 to %zu entries, has %zu", what, max, node->n);
    array = base_arena_alloc(c->snap->arena, node->n * element);
    if (array == NULL)
        return refuse(c, node, "the document holds too much");
    memcpy(ret_array, &array, sizeof(array));
    return BASE_OK;
}

/* Finds the name in an array of structs that begin with their name. */
static enum base_code find_name(const struct ctx *c, const struct yaml_node *node, const char *what,
                                const void *array, size_t element, size_t n, size_t *ret_index)
{
    const char *names[POL_MODELS_MAX];
    enum base_code rc = need(c, node, YAML_WORD, what);

    if (rc != BASE_OK)
        return rc;
    for (size_t i = 0; i < n; i++) {
        names[i] = (const char *)array + i * element;
        if (strcmp(names[i], node->word) == 0) {
            *ret_index = i;
            return BASE_OK;
        }
    }
    return refuse_word(c, node, what, names, n);
}

/* ---- classes ---- */

static enum base_code add_marking(const struct ctx *c, const struct yaml_node *node, enum pol_class cls)
{
    struct pol_snapshot *s = c->snap;
    const char *text = NULL;
    enum base_code rc = keep_word(c, node, "a marking", &text);

    if (rc != BASE_OK)
        return rc;
    if (strlen(text) > MARKING_MAX || strlen(text) < 3)
        return refuse(c, node, "a marking has 3 to %u characters", MARKING_MAX);
    for (const char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            return refuse(c, node, "a marking may hold only ASCII characters");
    if (text[0] == ' ' || text[strlen(text) - 1] == ' ')
        return refuse(c, node, "a marking may not begin or end with a blank");
    if (s->n_markings == SNAPSHOT_MARKINGS_MAX)
        return refuse(c, node, "more than %u markings", SNAPSHOT_MARKINGS_MAX);
    s->markings[s->n_markings++] = (struct marking){.text = text, .cls = cls};
    return BASE_OK;
}

static enum base_code read_markings(const struct ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"public", "internal", "confidential", "secret"};
    enum base_code rc = need_keys(c, node, "markings", keys, BASE_ARRAY_LEN(keys), 0);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        const struct yaml_node *list = node->items[i];

        rc = need(c, list, YAML_LIST, "the markings of a class");
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

static enum base_code read_detector_classes(const struct ctx *c, const struct yaml_node *node)
{
    const char *names[POL_DETECT_COUNT];
    size_t n = detector_names(names);
    enum base_code rc = need_keys(c, node, "detectors", names, n, 0);

    for (size_t d = 1; rc == BASE_OK && d < POL_DETECT_COUNT; d++) {
        const struct yaml_node *cls = yaml_get(node, names[d - 1]);

        if (cls != NULL)
            rc = read_class(c, cls, &c->snap->detector_class[d]);
    }
    return rc;
}

static enum base_code read_bool(const struct ctx *c, const struct yaml_node *node, const char *what,
                                bool *ret_value)
{
    if (node->kind == YAML_WORD && !node->quoted && strcmp(node->word, "true") == 0)
        *ret_value = true;
    else if (node->kind == YAML_WORD && !node->quoted && strcmp(node->word, "false") == 0)
        *ret_value = false;
    else
        return refuse(c, node, "%s must be true or false", what);
    return BASE_OK;
}

static enum base_code read_classes(const struct ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"default", "markings", "markings_ignore_case", "detectors"};
    static const enum pol_class detector_default[POL_DETECT_COUNT] = {
        [POL_DETECT_CARD] = POL_CONFIDENTIAL,  [POL_DETECT_IBAN] = POL_CONFIDENTIAL,
        [POL_DETECT_EMAIL] = POL_INTERNAL,     [POL_DETECT_PRIVATE_KEY] = POL_SECRET,
        [POL_DETECT_AWS_KEY] = POL_SECRET,     [POL_DETECT_GITHUB_TOKEN] = POL_SECRET,
        [POL_DETECT_SLACK_TOKEN] = POL_SECRET, [POL_DETECT_JWT] = POL_CONFIDENTIAL,
    };
    const struct yaml_node *part;
    enum base_code rc = need_keys(c, node, "classes", keys, BASE_ARRAY_LEN(keys), 1);

    memcpy(c->snap->detector_class, detector_default, sizeof(detector_default));
    c->snap->markings = base_arena_alloc(c->snap->arena, SNAPSHOT_MARKINGS_MAX * sizeof(struct marking));
    if (rc == BASE_OK)
        rc = read_class(c, yaml_get(node, "default"), &c->snap->default_class);
    part = yaml_get(node, "markings");
    if (rc == BASE_OK && part != NULL)
        rc = read_markings(c, part);
    part = yaml_get(node, "markings_ignore_case");
    if (rc == BASE_OK && part != NULL)
        rc = read_bool(c, part, "markings_ignore_case", &c->snap->markings_ignore_case);
    part = yaml_get(node, "detectors");
    if (rc == BASE_OK && part != NULL)
        rc = read_detector_classes(c, part);
    return rc;
}

/* ---- backends ---- */

static enum base_code read_engine(const struct ctx *c, const struct yaml_node *node,
                                  struct pol_backend *backend)
{
    static const char *const keys[] = {"file", "context_tokens", "max_sequences", "queue_max", "threads"};
    enum base_code rc = need_keys(c, node, "engine", keys, BASE_ARRAY_LEN(keys), 1);

    backend->kind = POL_BACKEND_ENGINE;
    if (rc == BASE_OK)
        rc = read_path(c, node, "file", &backend->file);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "context_tokens", 0, 1u << 24, 0, &backend->context_tokens);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "max_sequences", 0, 65536, 0, &backend->max_sequences);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "queue_max", 0, 65536, 0, &backend->queue_max);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "threads", 0, 1024, 0, &backend->threads);
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

static enum base_code read_provider(const struct ctx *c, const struct yaml_node *node,
                                    struct pol_backend *backend)
{
    static const char *const keys[] = {"base_url",           "api_key_file",          "ca_file",
                                       "connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms",
                                       "total_timeout_ms"};
    enum base_code rc = need_keys(c, node, "provider", keys, BASE_ARRAY_LEN(keys), 1);
    const struct yaml_node *url = yaml_get(node, "base_url");
    const char *fault;

    backend->kind = POL_BACKEND_PROVIDER;
    if (rc == BASE_OK)
        rc = keep_word(c, url, "base_url", &backend->base_url);
    fault = rc == BASE_OK ? base_url_fault(backend->base_url) : NULL;
    if (fault != NULL)
        return refuse(c, url, "base_url %s", fault);
    if (rc == BASE_OK)
        rc = read_path(c, node, "api_key_file", &backend->api_key_file);
    if (rc == BASE_OK)
        rc = read_path(c, node, "ca_file", &backend->ca_file);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "connect_timeout_ms", 1, TIMEOUT_MS_MAX, 5000, &backend->connect_timeout_ms);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "first_byte_timeout_ms", 1, TIMEOUT_MS_MAX, 30000,
                      &backend->first_byte_timeout_ms);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "idle_timeout_ms", 1, TIMEOUT_MS_MAX, 30000, &backend->idle_timeout_ms);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "total_timeout_ms", 1, TIMEOUT_MS_MAX, 600000, &backend->total_timeout_ms);
    return rc;
}

static enum base_code read_backend(const struct ctx *c, const struct yaml_node *key,
                                   const struct yaml_node *node, struct pol_backend *backend)
{
    static const char *const keys[] = {"max_class", "engine", "provider"};
    enum base_code rc = read_name(c, key, "a backend's name", backend->name);
    const struct yaml_node *engine, *provider;

    if (rc == BASE_OK)
        rc = need_keys(c, node, "a backend", keys, BASE_ARRAY_LEN(keys), 1);
    if (rc == BASE_OK)
        rc = read_class(c, yaml_get(node, "max_class"), &backend->max_class);
    engine = yaml_get(node, "engine");
    provider = yaml_get(node, "provider");
    if (rc != BASE_OK)
        return rc;
    if ((engine == NULL) == (provider == NULL))
        return refuse(c, key, "backend \"%s\" must have either \"engine\" or \"provider\"", backend->name);
    return engine != NULL ? read_engine(c, engine, backend) : read_provider(c, provider, backend);
}

static enum base_code read_backends(const struct ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = section(c, node, "backends", POL_BACKENDS_MAX, sizeof(*s->backends), &s->backends);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_backend(c, node->keys[i], node->items[i], &s->backends[i]);
        s->n_backends++;
    }
    return rc;
}

/* ---- models ---- */

static enum base_code read_route(const struct ctx *c, const struct yaml_node *node, const char *model,
                                 struct route_rule *route)
{
    static const char *const keys[] = {"backend", "model"};
    const struct yaml_node *upstream;
    enum base_code rc = need_keys(c, node, "a route", keys, BASE_ARRAY_LEN(keys), 1);
    size_t index = 0;

    if (rc == BASE_OK)
        rc = find_name(c, yaml_get(node, "backend"), "backend", c->snap->backends, sizeof(*c->snap->backends),
                       c->snap->n_backends, &index);
    if (rc != BASE_OK)
        return rc;
    route->backend = &c->snap->backends[index];
    upstream = yaml_get(node, "model");
    if (upstream != NULL)
        return read_name(c, upstream, "a route's model", route->upstream_model);
    memcpy(route->upstream_model, model, POL_NAME_MAX);
    return BASE_OK;
}

static enum base_code read_model(const struct ctx *c, const struct yaml_node *key,
                                 const struct yaml_node *node, struct model_rule *model)
{
    static const char *const keys[] = {"routes", "description"};
    const struct yaml_node *routes, *description;
    enum base_code rc = read_name(c, key, "a model's name", model->pub.name);

    if (rc == BASE_OK)
        rc = need_keys(c, node, "a model", keys, BASE_ARRAY_LEN(keys), 1);
    model->pub.description = "";
    description = yaml_get(node, "description");
    if (rc == BASE_OK && description != NULL)
        rc = keep_word(c, description, "description", &model->pub.description);
    routes = yaml_get(node, "routes");
    if (rc == BASE_OK)
        rc = need(c, routes, YAML_LIST, "routes");
    if (rc != BASE_OK)
        return rc;
    if (routes->n == 0 || routes->n > POL_ROUTES_MAX)
        return refuse(c, routes, "a model has 1 to %u routes, this one %zu", POL_ROUTES_MAX, routes->n);
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

static enum base_code read_models(const struct ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = section(c, node, "models", POL_MODELS_MAX, sizeof(*s->models), &s->models);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_model(c, node->keys[i], node->items[i], &s->models[i]);
        s->n_models++;
    }
    return rc;
}

/* ---- limits ---- */

static enum base_code read_fail_mode(const struct ctx *c, const struct yaml_node *node,
                                     enum pol_fail_mode *ret_mode)
{
    static const char *const words[] = {"closed", "open"};
    enum base_code rc;

    *ret_mode = POL_FAIL_CLOSED;
    if (node == NULL)
        return BASE_OK;
    rc = need(c, node, YAML_WORD, "on_store_failure");
    if (rc != BASE_OK)
        return rc;
    if (strcmp(node->word, "open") == 0)
        *ret_mode = POL_FAIL_OPEN;
    else if (strcmp(node->word, "closed") != 0)
        return refuse_word(c, node, "value", words, BASE_ARRAY_LEN(words));
    return BASE_OK;
}

static enum base_code read_limit(const struct ctx *c, const struct yaml_node *key,
                                 const struct yaml_node *node, struct pol_limits *limits)
{
    static const char *const keys[] = {"requests_per_minute", "tokens_per_minute", "requests_burst",
                                       "tokens_burst", "on_store_failure"};
    enum base_code rc = read_name(c, key, "a limit's name", limits->name);

    if (rc == BASE_OK)
        rc = need_keys(c, node, "a limit", keys, BASE_ARRAY_LEN(keys), 2);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "requests_per_minute", 0, RATE_MAX, 0, &limits->requests_per_minute);
    if (rc == BASE_OK)
        rc = read_u32(c, node, "requests_burst", 1, RATE_MAX, limits->requests_per_minute,
                      &limits->requests_burst);
    if (rc == BASE_OK)
        rc = read_number(c, node, "tokens_per_minute", 0, RATE_MAX, 0, &limits->tokens_per_minute);
    if (rc == BASE_OK)
        rc = read_number(c, node, "tokens_burst", 1, RATE_MAX, limits->tokens_per_minute,
                         &limits->tokens_burst);
    if (rc == BASE_OK)
        rc = read_fail_mode(c, yaml_get(node, "on_store_failure"), &limits->fail_mode);
    return rc;
}

static enum base_code read_limits(const struct ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = section(c, node, "limits", SNAPSHOT_LIMITS_MAX, sizeof(*s->limits), &s->limits);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_limit(c, node->keys[i], node->items[i], &s->limits[i]);
        s->n_limits++;
    }
    return rc;
}

/* ---- guards ---- */

static enum base_code read_action(const struct ctx *c, const struct yaml_node *node, bool is_input,
                                  enum pol_action *ret_action)
{
    static const char *const words[] = {"allow", "tag", "mask", "block", "force_local"};
    enum base_code rc = need(c, node, YAML_WORD, "an action");

    if (rc != BASE_OK)
        return rc;
    for (int a = POL_ACTION_ALLOW; a <= POL_ACTION_BLOCK; a++)
        if (strcmp(node->word, pol_action_name((enum pol_action)a)) == 0) {
            if (a == POL_ACTION_FORCE_LOCAL && !is_input)
                return refuse(c, node,
                              "force_local is for input only; the answer has already left its model");
            *ret_action = (enum pol_action)a;
            return BASE_OK;
        }
    return refuse_word(c, node, "action", words, is_input ? 5 : 4);
}

static enum base_code read_actions(const struct ctx *c, const struct yaml_node *node, bool is_input,
                                   enum pol_action *actions)
{
    const char *names[POL_DETECT_COUNT];
    size_t n = detector_names(names);
    enum base_code rc;

    if (node == NULL)
        return BASE_OK;
    rc = need_keys(c, node, is_input ? "input" : "output", names, n, 0);
    for (size_t d = 1; rc == BASE_OK && d < POL_DETECT_COUNT; d++) {
        const struct yaml_node *action = yaml_get(node, names[d - 1]);

        if (action != NULL)
            rc = read_action(c, action, is_input, &actions[d]);
    }
    return rc;
}

static enum base_code read_guards(const struct ctx *c, const struct yaml_node *node)
{
    static const char *const keys[] = {"input", "output"};
    struct pol_snapshot *s = c->snap;
    enum base_code rc = section(c, node, "guards", SNAPSHOT_GUARDS_MAX, sizeof(*s->guards), &s->guards);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++, s->n_guards++) {
        struct pol_guard *guard = &s->guards[i];

        rc = read_name(c, node->keys[i], "a guard's name", guard->name);
        if (rc == BASE_OK)
            rc = need_keys(c, node->items[i], "a guard", keys, BASE_ARRAY_LEN(keys), 0);
        if (rc == BASE_OK)
            rc = read_actions(c, yaml_get(node->items[i], "input"), true, guard->input);
        if (rc == BASE_OK)
            rc = read_actions(c, yaml_get(node->items[i], "output"), false, guard->output);
    }
    return rc;
}

/* ---- roles ---- */

static enum base_code read_grants(const struct ctx *c, const struct yaml_node *list, struct role_rule *role)
{
    enum base_code rc = need(c, list, YAML_LIST, "a role's models");

    for (size_t i = 0; rc == BASE_OK && i < list->n; i++) {
        const struct yaml_node *item = list->items[i];
        size_t index = 0;

        if (item->kind == YAML_WORD && strcmp(item->word, "*") == 0) {
            for (size_t m = 0; m < c->snap->n_models; m++)
                role->models[m / 64] |= (uint64_t)1 << (m % 64);
            continue;
        }
        rc =
            find_name(c, item, "model", c->snap->models, sizeof(*c->snap->models), c->snap->n_models, &index);
        if (rc == BASE_OK)
            role->models[index / 64] |= (uint64_t)1 << (index % 64);
    }
    return rc;
}

static enum base_code read_role(const struct ctx *c, const struct yaml_node *key,
                                const struct yaml_node *node, struct role_rule *role)
{
    static const char *const keys[] = {"models", "max_class", "limits", "guard"};
    struct pol_snapshot *s = c->snap;
    enum base_code rc = read_name(c, key, "a role's name", role->name);
    size_t limits = 0, guard = 0;

    if (rc == BASE_OK)
        rc = need_keys(c, node, "a role", keys, BASE_ARRAY_LEN(keys), BASE_ARRAY_LEN(keys));
    if (rc == BASE_OK)
        rc = read_grants(c, yaml_get(node, "models"), role);
    if (rc == BASE_OK)
        rc = read_class(c, yaml_get(node, "max_class"), &role->max_class);
    if (rc == BASE_OK)
        rc = find_name(c, yaml_get(node, "limits"), "limit", s->limits, sizeof(*s->limits), s->n_limits,
                       &limits);
    if (rc == BASE_OK)
        rc = find_name(c, yaml_get(node, "guard"), "guard", s->guards, sizeof(*s->guards), s->n_guards,
                       &guard);
    if (rc != BASE_OK)
        return rc;
    role->limits = &s->limits[limits];
    role->guard = &s->guards[guard];
    return BASE_OK;
}

static enum base_code read_roles(const struct ctx *c, const struct yaml_node *node)
{
    struct pol_snapshot *s = c->snap;
    enum base_code rc = section(c, node, "roles", POL_ROLES_MAX, sizeof(*s->roles), &s->roles);

    for (size_t i = 0; rc == BASE_OK && i < node->n; i++) {
        rc = read_role(c, node->keys[i], node->items[i], &s->roles[i]);
        s->n_roles++;
    }
    return rc;
}

/* ---- the document ---- */

static enum base_code read_version(const struct ctx *c, const struct yaml_node *node)
{
    if (node->kind == YAML_WORD && !node->quoted && strcmp(node->word, "1") == 0)
        return BASE_OK;
    return refuse(c, node, "version must be 1; this program knows no other");
}

enum base_code rules_read(struct pol_snapshot *snapshot, const char *name, const struct yaml_node *root,
                          struct base_err *err)
{
    static const char *const keys[] = {"version", "classes", "backends", "models",
                                       "limits",  "guards",  "roles"};
    const struct ctx c = {.snap = snapshot, .name = name, .err = err};
    enum base_code rc = need_keys(&c, root, "the document", keys, BASE_ARRAY_LEN(keys), BASE_ARRAY_LEN(keys));

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
        rules_warn(snapshot);
    return rc;
}

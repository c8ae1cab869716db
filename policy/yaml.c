/* YAML by libfyaml's event parser: see yaml.h. Events, not documents, so that an anchor or alias is refused
 * where it stands and nothing is ever expanded. */
#include "policy/yaml.h"

#include "base/mem.h"
#include "base/str.h"

#include <libfyaml.h>
#include <string.h>

struct reader {
    const char *name;
    struct fy_parser *parser;
    struct fy_diag *diag;
    size_t n_nodes;
    struct base_err *err;
};

void yaml_free(struct yaml_node *node)
{
    if (node == NULL)
        return;
    for (size_t i = 0; i < node->n; i++) {
        if (node->keys != NULL)
            yaml_free(node->keys[i]);
        yaml_free(node->items[i]);
    }
    free(node->keys);
    free(node->items);
    free(node->word);
    free(node);
}

BASE_AUTO(struct yaml_node *, yaml_free)
#define auto_node __attribute__((cleanup(yaml_free_cleanup)))

struct yaml_node *yaml_get(const struct yaml_node *map, const char *key)
{
    for (size_t i = 0; map != NULL && map->kind == YAML_MAP && i < map->n; i++)
        if (strcmp(map->keys[i]->word, key) == 0)
            return map->items[i];
    return NULL;
}

/* ---- messages ---- */

static enum base_code refuse_mark(struct reader *r, const struct fy_mark *mark, const char *what)
{
    return base_fail(r->err, BASE_INVALID, 0, "%s:%d:%d: %s", r->name, mark != NULL ? mark->line + 1 : 1,
                     mark != NULL ? mark->column + 1 : 1, what);
}

/* libfyaml's mark of a token with a sign before it (& or *) stands behind the sign. */
static enum base_code refuse_behind(struct reader *r, const struct fy_mark *mark, const char *what)
{
    struct fy_mark sign = mark != NULL ? *mark : (struct fy_mark){0};

    sign.column -= sign.column > 0;
    return refuse_mark(r, &sign, what);
}

/* What libfyaml found wrong, with its place. */
static enum base_code refuse_syntax(struct reader *r)
{
    void *prev = NULL;
    struct fy_diag_error *error = fy_diag_errors_iterate(r->diag, &prev);

    if (error == NULL || error->msg == NULL)
        return base_fail(r->err, BASE_INVALID, 0, "%s:1:1: this is not YAML", r->name);
    return base_fail(r->err, BASE_INVALID, 0, "%s:%d:%d: %s", r->name, error->line > 0 ? error->line : 1,
                     error->column > 0 ? error->column : 1, error->msg);
}

/* ---- events ---- */

static void event_free(struct reader *r, struct fy_event **event)
{
    if (*event != NULL)
        fy_parser_event_free(r->parser, *event);
    *event = NULL;
}

static enum base_code next_event(struct reader *r, struct fy_event **ret_event)
{
    struct fy_event *event = fy_parser_parse(r->parser);

    if (event == NULL || fy_diag_got_error(r->diag)) {
        event_free(r, &event);
        return refuse_syntax(r);
    }
    *ret_event = event;
    return BASE_OK;
}

struct forbidden {
    struct fy_token *anchor, *tag; /* before the value, or NULL */
};

static struct forbidden forbidden_tokens(const struct fy_event *event)
{
    switch (event->type) {
    case FYET_SCALAR: return (struct forbidden){event->scalar.anchor, event->scalar.tag};
    case FYET_MAPPING_START: return (struct forbidden){event->mapping_start.anchor, event->mapping_start.tag};
    case FYET_SEQUENCE_START:
        return (struct forbidden){event->sequence_start.anchor, event->sequence_start.tag};
    default: return (struct forbidden){NULL, NULL};
    }
}

static enum base_code new_node(struct reader *r, struct fy_event *event, struct yaml_node **ret_node)
{
    const struct fy_mark *mark = fy_event_start_mark(event);
    const struct forbidden forbidden = forbidden_tokens(event);
    struct yaml_node *node;

    if (event->type == FYET_ALIAS)
        return refuse_behind(r, mark, "aliases (*name) are not allowed; write the value out");
    if (forbidden.anchor != NULL)
        return refuse_behind(r, fy_token_start_mark(forbidden.anchor),
                             "anchors (&name) are not allowed; write the value out");
    if (forbidden.tag != NULL)
        return refuse_mark(r, fy_token_start_mark(forbidden.tag),
                           "tags (!name) are not allowed; write the value alone");
    if (++r->n_nodes > YAML_NODES_MAX)
        return refuse_mark(r, mark, "too many values in one document");
    node = base_zalloc(sizeof(*node));
    if (mark != NULL) { /* an empty value has none: read_children gives it its key's */
        node->line = (unsigned)mark->line + 1;
        node->column = (unsigned)mark->column + 1;
    }
    *ret_node = node;
    return BASE_OK;
}

static enum base_code read_word(struct reader *r, struct fy_event *event, struct yaml_node *node)
{
    size_t len = 0;
    const char *text = fy_token_get_text(event->scalar.value, &len);
    enum fy_scalar_style style = fy_token_scalar_style(event->scalar.value);

    if ((style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED) && node->column > 1)
        node->column--; /* the mark stands behind the quote */
    if (text != NULL && memchr(text, '\0', len) != NULL)
        return base_fail(r->err, BASE_INVALID, 0, "%s:%u:%u: a value holds a NUL character", r->name,
                         node->line, node->column);
    node->kind = YAML_WORD;
    node->word = base_memdup0(text != NULL ? text : "", text != NULL ? len : 0);
    node->quoted = style != FYSS_PLAIN && style != FYSS_ANY;
    return BASE_OK;
}

static void add_item(struct yaml_node *parent, struct yaml_node *key, struct yaml_node *item)
{
    if ((parent->n & (parent->n - 1)) == 0) { /* grow at powers of two */
        size_t cap = parent->n > 0 ? parent->n * 2 : 1;

        parent->items = base_realloc(parent->items, cap * sizeof(struct yaml_node *));
        if (parent->kind == YAML_MAP)
            parent->keys = base_realloc(parent->keys, cap * sizeof(struct yaml_node *));
    }
    if (parent->kind == YAML_MAP)
        parent->keys[parent->n] = key;
    parent->items[parent->n++] = item;
}

static enum base_code check_key(struct reader *r, const struct yaml_node *map, const struct yaml_node *key)
{
    const struct yaml_node *before;

    if (key->line == 0)
        return base_fail(r->err, BASE_INVALID, 0, "%s:%u:%u: a key is missing in this map", r->name,
                         map->line, map->column);
    if (key->kind != YAML_WORD || key->word[0] == '\0')
        return base_fail(r->err, BASE_INVALID, 0, "%s:%u:%u: a key must be a word", r->name, key->line,
                         key->column);
    before = yaml_get(map, key->word);
    if (before == NULL)
        return BASE_OK;
    return base_fail(r->err, BASE_INVALID, 0,
                     "%s:%u:%u: the key \"%.60s\" stands here twice (first value at %u:%u)", r->name,
                     key->line, key->column, key->word, before->line, before->column);
}

static enum base_code read_node(struct reader *r, struct fy_event *event, unsigned depth,
                                struct yaml_node **ret_node);

static enum base_code read_children(struct reader *r, struct yaml_node *node, enum fy_event_type end,
                                    unsigned depth)
{
    for (;;) {
        struct fy_event *event = NULL;
        auto_node struct yaml_node *key = NULL;
        auto_node struct yaml_node *item = NULL;
        enum base_code rc = next_event(r, &event);

        if (rc != BASE_OK)
            return rc;
        if (event->type == end) {
            event_free(r, &event);
            return BASE_OK;
        }
        rc = read_node(r, event, depth, node->kind == YAML_MAP ? &key : &item);
        if (rc != BASE_OK)
            return rc;
        if (node->kind == YAML_MAP) {
            rc = check_key(r, node, key);
            if (rc == BASE_OK)
                rc = next_event(r, &event);
            if (rc == BASE_OK)
                rc = read_node(r, event, depth, &item);
            if (rc != BASE_OK)
                return rc;
        }
        if (item->line == 0) {
            item->line = key != NULL ? key->line : node->line;
            item->column = key != NULL ? key->column : node->column;
        }
        add_item(node, TAKE(key), TAKE(item));
    }
}

/* Consumes the event. */
static enum base_code read_node(struct reader *r, struct fy_event *event, unsigned depth,
                                struct yaml_node **ret_node)
{
    auto_node struct yaml_node *node = NULL;
    enum fy_event_type type = event->type;
    enum base_code rc = new_node(r, event, &node);

    if (rc == BASE_OK && type == FYET_SCALAR)
        rc = read_word(r, event, node);
    else if (rc == BASE_OK && type != FYET_MAPPING_START && type != FYET_SEQUENCE_START)
        rc = refuse_mark(r, fy_event_start_mark(event), "a value is missing");
    else if (rc == BASE_OK && depth >= YAML_DEPTH_MAX)
        rc = refuse_mark(r, fy_event_start_mark(event), "nested too deeply");
    event_free(r, &event);
    if (rc == BASE_OK && type != FYET_SCALAR) {
        node->kind = type == FYET_MAPPING_START ? YAML_MAP : YAML_LIST;
        rc = read_children(r, node, type == FYET_MAPPING_START ? FYET_MAPPING_END : FYET_SEQUENCE_END,
                           depth + 1);
    }
    if (rc == BASE_OK)
        *ret_node = TAKE(node);
    return rc;
}

/* Skips events of type `skip`; the first other one is handed back. */
static enum base_code skip_events(struct reader *r, enum fy_event_type skip, struct fy_event **ret_event)
{
    struct fy_event *event = NULL;
    enum base_code rc = next_event(r, &event);

    while (rc == BASE_OK && event->type == skip) {
        event_free(r, &event);
        rc = next_event(r, &event);
    }
    if (rc == BASE_OK)
        *ret_event = event;
    return rc;
}

static enum base_code read_stream(struct reader *r, struct yaml_node **ret_root)
{
    auto_node struct yaml_node *root = NULL;
    struct fy_event *event = NULL;
    enum base_code rc = skip_events(r, FYET_STREAM_START, &event);

    if (rc != BASE_OK)
        return rc;
    if (event->type != FYET_DOCUMENT_START) {
        event_free(r, &event);
        return base_fail(r->err, BASE_INVALID, 0, "%s:1:1: the document is empty", r->name);
    }
    event_free(r, &event);
    rc = next_event(r, &event);
    if (rc == BASE_OK)
        rc = read_node(r, event, 0, &root);
    event = NULL;
    if (rc == BASE_OK)
        rc = skip_events(r, FYET_DOCUMENT_END, &event);
    if (rc != BASE_OK)
        return rc;
    if (event->type != FYET_STREAM_END)
        rc = refuse_mark(r, fy_event_start_mark(event), "a second document (---) is not allowed");
    event_free(r, &event);
    if (rc == BASE_OK && root->line == 0)
        root->line = root->column = 1;
    if (rc == BASE_OK)
        *ret_root = TAKE(root);
    return rc;
}

/* libfyaml's own positions for these are unsure, so they are refused before it reads. */
static enum base_code check_text(const char *name, const char *text, size_t len, struct base_err *err)
{
    unsigned line = 1;

    if (!base_utf8_valid(text, len))
        return base_fail(err, BASE_INVALID, 0, "%s:1:1: the file is not UTF-8", name);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '\n')
            line++;
        else if ((c < ' ' && c != '\t' && c != '\r') || c == 0x7f)
            return base_fail(err, BASE_INVALID, 0, "%s:%u:1: a control character (0x%02x) is not allowed",
                             name, line, c);
    }
    return BASE_OK;
}

enum base_code yaml_parse(struct yaml_node **ret_root, const char *name, const char *text, size_t len,
                          struct base_err *err)
{
    struct reader r = {.name = name, .err = err};
    struct fy_diag_cfg diag_cfg;
    struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_DEFAULT_VERSION_1_2 |
                                        FYPCF_JSON_NONE};
    enum base_code rc = check_text(name, text, len, err);

    if (rc != BASE_OK)
        return rc;
    if (len == 0)
        return base_fail(err, BASE_INVALID, 0, "%s:1:1: the document is empty", name);
    fy_diag_cfg_default(&diag_cfg);
    diag_cfg.fp = NULL;
    diag_cfg.colorize = false;
    r.diag = fy_diag_create(&diag_cfg);
    if (r.diag == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "%s: no memory for the YAML reader", name);
    fy_diag_set_collect_errors(r.diag, true);
    cfg.diag = r.diag;
    r.parser = fy_parser_create(&cfg);
    if (r.parser == NULL || fy_parser_set_string(r.parser, text, len) != 0)
        rc = base_fail(err, BASE_NO_MEMORY, 0, "%s: no memory for the YAML reader", name);
    else
        rc = read_stream(&r, ret_root);
    if (r.parser != NULL)
        fy_parser_destroy(r.parser);
    fy_diag_destroy(r.diag);
    return rc;
}

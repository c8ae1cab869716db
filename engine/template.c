/* Chat templates: compiling and rendering. See template.h. */
#include "engine/template_priv.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- names ---- */

static unsigned name_bucket(const char *text, size_t n)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)text[i]) * 16777619u;
    return (h ^ h >> 15) % ENG_TNAME_BUCKETS;
}

const struct eng_tname *eng_tname_find(const struct eng_template *tmpl, const char *text, size_t n)
{
    for (const struct eng_tname *name = tmpl->names[name_bucket(text, n)]; name != NULL; name = name->next)
        if (name->n == n && memcmp(name->text, text, n) == 0)
            return name;
    return NULL;
}

const struct eng_tname *eng_tname_intern(struct eng_template *tmpl, const char *text, size_t n)
{
    const struct eng_tname *found = eng_tname_find(tmpl, text, n);
    struct eng_tname *name;

    if (found != NULL)
        return found;
    name = base_arena_alloc(tmpl->arena, sizeof(*name));
    if (name == NULL || (name->text = base_arena_dup(tmpl->arena, text, n)) == NULL)
        return NULL;
    name->n = n;
    name->next = tmpl->names[name_bucket(text, n)];
    tmpl->names[name_bucket(text, n)] = name;
    return name;
}

/* ---- compiling ---- */

/* Line ends become "\n", and one at the very end goes, as Jinja2 has it. Returns the new length. */
static size_t normalise(const char *text, size_t len, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r') {
            out[n++] = '\n';
            i += i + 1 < len && text[i + 1] == '\n';
        } else
            out[n++] = text[i];
    }
    if (n > 0 && out[n - 1] == '\n')
        n--;
    out[n] = '\0';
    return n;
}

enum base_code eng_template_compile(struct eng_template **ret_tmpl, const char *text, size_t len,
                                    struct base_err *err)
{
    auto_free struct eng_lex *lex = NULL;
    auto_free char *source = NULL;
    struct eng_template *tmpl;
    enum base_code rc;

    if (len > ENG_TEMPLATE_BYTES_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "template is %zu bytes, limit %u", len,
                         ENG_TEMPLATE_BYTES_MAX);
    if (!base_utf8_valid(text, len))
        return base_fail(err, BASE_INVALID, 0, "template is not UTF-8");
    if (len > 0 && memchr(text, '\0', len) != NULL)
        return base_fail(err, BASE_INVALID, 0, "template holds a NUL");
    source = base_alloc(len + 1);
    len = normalise(text, len, source);
    rc = eng_template_lex(source, len, &lex, err);
    if (rc != BASE_OK)
        return rc;
    tmpl = base_zalloc(sizeof(*tmpl));
    tmpl->arena = base_arena_new(ENG_TEMPLATE_TREE_MAX);
    rc = eng_template_parse(tmpl, source, lex, err);
    if (rc != BASE_OK) {
        eng_template_free(tmpl);
        return rc;
    }
    *ret_tmpl = tmpl;
    return BASE_OK;
}

void eng_template_free(struct eng_template *tmpl)
{
    if (tmpl == NULL)
        return;
    base_arena_unref(tmpl->arena);
    free(tmpl);
}

/* ---- rendering: the bounds ---- */

struct eng_tv eng_tr_fail(struct eng_trender *r, enum base_code code, const char *fmt, ...)
{
    char what[200];
    va_list args;

    if (r->rc == BASE_OK) {
        va_start(args, fmt);
        vsnprintf(what, sizeof(what), fmt, args);
        va_end(args);
        r->rc = base_fail(r->err, code, 0, "template line %u: %s", r->line, what);
    }
    return eng_tv_undefined(NULL);
}

bool eng_tr_step(struct eng_trender *r, size_t n)
{
    if (r->rc != BASE_OK)
        return false;
    if (n > ENG_TEMPLATE_STEPS_MAX - r->steps) {
        eng_tr_fail(r, BASE_TOO_LARGE, "takes more than %u steps", ENG_TEMPLATE_STEPS_MAX);
        return false;
    }
    r->steps += (uint32_t)n;
    return true;
}

bool eng_tr_enter(struct eng_trender *r)
{
    if (r->rc != BASE_OK)
        return false;
    if (r->depth >= ENG_TEMPLATE_EVAL_DEPTH_MAX) {
        eng_tr_fail(r, BASE_TOO_LARGE, "nested deeper than %u", ENG_TEMPLATE_EVAL_DEPTH_MAX);
        return false;
    }
    r->depth++;
    return true;
}

void eng_tr_leave(struct eng_trender *r)
{
    r->depth--;
}

void *eng_tr_alloc(struct eng_trender *r, size_t size)
{
    void *p = r->rc == BASE_OK ? base_arena_alloc(r->arena, size) : NULL;

    if (p == NULL)
        eng_tr_fail(r, BASE_TOO_LARGE, "uses more than %u bytes of memory", ENG_TEMPLATE_MEMORY_MAX);
    return p;
}

/* ---- rendering ---- */

void eng_trender_begin(struct eng_trender *r, const struct eng_template *tmpl, int64_t now_wall_us,
                       struct base_err *err)
{
    *r = (struct eng_trender){.tmpl = tmpl, .err = err, .now_wall_us = now_wall_us};
    r->arena = base_arena_new(ENG_TEMPLATE_MEMORY_MAX);
    base_arena_wipe_on_free(r->arena); /* it holds the messages */
    r->globals = eng_tscope_new(r, NULL);
}

void eng_trender_end(struct eng_trender *r)
{
    base_arena_unref(r->arena);
}

void eng_trender_set(struct eng_trender *r, const char *name, struct eng_tv value)
{
    eng_tscope_set(r, r->globals, eng_tname_find(r->tmpl, name, strlen(name)), value);
}

static bool is_plain_role(const char *role)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(roles); i++)
        if (strcmp(role, roles[i]) == 0)
            return true;
    return false;
}

static struct eng_tv message_list(struct eng_trender *r, const struct eng_template_args *args)
{
    struct eng_tv list = eng_tv_list(r, ENG_TLIST, args->n_messages);

    for (size_t i = 0; i < args->n_messages; i++) {
        const struct eng_message *m = &args->messages[i];
        struct eng_tv message = eng_tv_dict(r, 2);

        if (r->rc != BASE_OK)
            break;
        eng_tv_put(r, message.dict, eng_tv_text("role"),
                   eng_tv_str(m->role, strlen(m->role), !is_plain_role(m->role)));
        eng_tv_put(r, message.dict, eng_tv_text("content"), eng_tv_str(m->content, m->content_len, true));
        eng_tv_append(r, list.list, message);
    }
    return list;
}

static enum base_code render_once(const struct eng_template *tmpl, const struct eng_template_args *args,
                                  bool with_tools, struct base_buf *out, struct eng_template_span **ret_spans,
                                  size_t *ret_n_spans, bool *ret_raised, struct base_err *err)
{
    struct eng_trender r;
    enum base_code rc;

    eng_trender_begin(&r, tmpl, args->now_wall_us, err);
    eng_trender_set(&r, "messages", message_list(&r, args));
    eng_trender_set(&r, "add_generation_prompt", eng_tv_bool(args->add_generation_prompt));
    eng_trender_set(&r, "bos_token", eng_tv_text(args->bos_token != NULL ? args->bos_token : ""));
    eng_trender_set(&r, "eos_token", eng_tv_text(args->eos_token != NULL ? args->eos_token : ""));
    if (with_tools) {
        eng_trender_set(&r, "tools", eng_tv_none());
        eng_trender_set(&r, "documents", eng_tv_none());
    }
    rc = eng_trender_run(&r, out, ret_spans, ret_n_spans);
    *ret_raised = r.raised;
    eng_trender_end(&r);
    return rc;
}

/* Templates are written for tools=None, as Hugging Face passes it; a few can stand only the absence of
 * `tools`. */
enum base_code eng_template_render(const struct eng_template *tmpl, const struct eng_template_args *args,
                                   struct base_buf *out, struct eng_template_span **ret_spans,
                                   size_t *ret_n_spans, struct base_err *err)
{
    struct base_err first;
    bool raised = false;
    enum base_code rc = render_once(tmpl, args, true, out, ret_spans, ret_n_spans, &raised, &first);

    if (rc == BASE_INVALID && !raised &&
        render_once(tmpl, args, false, out, ret_spans, ret_n_spans, &raised, NULL) == BASE_OK)
        rc = BASE_OK;
    if (rc != BASE_OK && err != NULL)
        *err = first;
    return rc;
}

/* Chat templates: statements, scopes and macros. See template_priv.h.
 *
 * A for body, a macro and a with block have a scope of their own; an if has none. Names are looked up
 * outwards, and a macro looks where it was defined.
 */
#include "engine/template_priv.h"

#include "base/mem.h"

#include <string.h>

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow run_body(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *body);

/* ---- scopes ---- */

struct eng_tscope *eng_tscope_new(struct eng_trender *r, struct eng_tscope *parent)
{
    struct eng_tscope *scope = eng_tr_alloc(r, sizeof(*scope));

    if (scope != NULL)
        scope->parent = parent;
    return scope;
}

const struct eng_tv *eng_tscope_get(struct eng_trender *r, const struct eng_tscope *scope,
                                    const struct eng_tname *name)
{
    for (; scope != NULL; scope = scope->parent) {
        if (!eng_tr_step(r, scope->n / 32))
            return NULL;
        for (size_t i = 0; i < scope->n; i++)
            if (scope->v[i].name == name)
                return &scope->v[i].value;
    }
    return NULL;
}

void eng_tscope_set(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tname *name,
                    struct eng_tv v)
{
    if (name == NULL || !eng_tr_step(r, scope->n / 32))
        return;
    for (size_t i = 0; i < scope->n; i++)
        if (scope->v[i].name == name) {
            scope->v[i].value = v;
            return;
        }
    if (scope->n == scope->cap) {
        size_t cap = scope->cap < 8 ? 8 : scope->cap * 2;
        struct eng_tvar *grown = eng_tr_alloc(r, cap * sizeof(*grown));

        if (grown == NULL)
            return;
        if (scope->n > 0)
            memcpy(grown, scope->v, scope->n * sizeof(*grown));
        scope->v = grown;
        scope->cap = cap;
    }
    scope->v[scope->n++] = (struct eng_tvar){name, v};
}

/* ns.name = v */
static void assign_attr(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *target,
                        struct eng_tv v)
{
    struct eng_tv ns = eng_tr_eval(r, scope, target->a);

    if (r->rc != BASE_OK)
        return;
    if (ns.kind != ENG_TV_NAMESPACE || target->name == NULL)
        eng_tr_fail(r, BASE_INVALID, "cannot assign attribute on non-namespace object");
    else
        eng_tv_put(r, ns.dict, eng_tv_str(target->name->text, target->name->n, false), v);
}

static void assign(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *target,
                   struct eng_tv v)
{
    const struct eng_tlist *items;
    size_t i = 0;

    if (r->rc != BASE_OK)
        return;
    if (target->kind == ENG_TN_NAME) {
        eng_tscope_set(r, scope, target->name, v);
        return;
    }
    if (target->kind != ENG_TN_LIST) {
        assign_attr(r, scope, target, v);
        return;
    }
    items = eng_tv_iterate(r, v);
    if (items == NULL)
        return;
    for (const struct eng_tnode *name = target->b; name != NULL; name = name->next, i++)
        if (i < items->n)
            eng_tscope_set(r, scope, name->name, items->v[i]);
    if (i != items->n)
        eng_tr_fail(r, BASE_INVALID, "%zu values for %zu names", items->n, i);
}

/* ---- statements ---- */

/* Runs a body into a text of its own. */
static struct eng_tv capture(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *body,
                             enum flow *ret_flow)
{
    struct eng_tsink sink = {0}, *outer = r->sink;

    r->sink = &sink;
    *ret_flow = run_body(r, scope, body);
    r->sink = outer;
    return eng_tsink_take(&sink);
}

static const struct eng_tlist *filtered(struct eng_trender *r, struct eng_tscope *scope,
                                        const struct eng_tnode *node, const struct eng_tlist *items)
{
    struct eng_tv out = eng_tv_list(r, ENG_TLIST, 0);

    for (size_t i = 0; i < items->n && r->rc == BASE_OK; i++) {
        struct eng_tscope *inner = eng_tscope_new(r, scope);

        if (inner == NULL)
            return NULL;
        assign(r, inner, node->a, items->v[i]);
        if (r->rc == BASE_OK && eng_tv_true(eng_tr_eval(r, inner, node->c)))
            eng_tv_append(r, out.list, items->v[i]);
    }
    return r->rc == BASE_OK ? out.list : NULL;
}

static enum flow run_for(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    static const char loop_text[] = "loop";
    const struct eng_tname *loop_name = eng_tname_find(r->tmpl, loop_text, 4);
    struct eng_tv iterable = eng_tr_eval(r, scope, node->b);
    const struct eng_tlist *items = r->rc == BASE_OK ? eng_tv_iterate(r, iterable) : NULL;

    if (items != NULL && node->c != NULL)
        items = filtered(r, scope, node, items);
    if (items == NULL)
        return FLOW_NEXT;
    if (items->n == 0)
        return run_body(r, eng_tscope_new(r, scope), node->d);
    for (size_t i = 0; i < items->n && eng_tr_step(r, 1); i++) {
        struct eng_tscope *inner = eng_tscope_new(r, scope);
        struct eng_tloop *loop = eng_tr_alloc(r, sizeof(*loop));

        if (inner == NULL || loop == NULL)
            return FLOW_NEXT;
        *loop = (struct eng_tloop){i, items};
        eng_tscope_set(r, inner, loop_name, (struct eng_tv){.kind = ENG_TV_LOOP, .loop = loop});
        assign(r, inner, node->a, items->v[i]);
        if (run_body(r, inner, node->body) == FLOW_BREAK)
            break;
    }
    return FLOW_NEXT;
}

static enum flow run_if(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    for (const struct eng_tnode *branch = node; branch != NULL && r->rc == BASE_OK; branch = branch->b) {
        struct eng_tv test = branch->a != NULL ? eng_tr_eval(r, scope, branch->a) : eng_tv_bool(true);

        if (r->rc == BASE_OK && eng_tv_true(test))
            return run_body(r, scope, branch->body);
    }
    return FLOW_NEXT;
}

static enum flow run_set_block(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv outer = r->captured, text;
    enum flow flow;

    text = capture(r, eng_tscope_new(r, scope), node->body, &flow);
    if (node->b != NULL && r->rc == BASE_OK) {
        r->captured = text;
        text = eng_tr_eval(r, scope, node->b);
        r->captured = outer;
    }
    assign(r, scope, node->a, text);
    return flow;
}

static enum flow run_filter_block(struct eng_trender *r, struct eng_tscope *scope,
                                  const struct eng_tnode *node)
{
    struct eng_tv outer = r->captured, text;
    enum flow flow;

    text = capture(r, eng_tscope_new(r, scope), node->body, &flow);
    if (r->rc != BASE_OK)
        return flow;
    r->captured = text;
    text = eng_tr_eval(r, scope, node->b);
    r->captured = outer;
    eng_tsink_print(r, r->sink, text);
    return flow;
}

static enum flow run_with(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tscope *inner = eng_tscope_new(r, scope);

    if (inner == NULL)
        return FLOW_NEXT;
    for (const struct eng_tnode *set = node->a; set != NULL && r->rc == BASE_OK; set = set->next)
        assign(r, inner, set->a, eng_tr_eval(r, scope, set->b));
    return run_body(r, inner, node->body);
}

static struct eng_tv make_macro(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tmacro *macro = eng_tr_alloc(r, sizeof(*macro));

    if (macro == NULL)
        return eng_tv_undefined(NULL);
    *macro = (struct eng_tmacro){node, scope};
    return (struct eng_tv){.kind = ENG_TV_MACRO, .macro = macro};
}

/* {% call(args) f(...) %}: f gets the body as caller(). */
static void run_call_block(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    struct eng_tv caller = make_macro(r, scope, node), fn = eng_tr_eval(r, scope, node->b->a), v;
    const struct eng_tnode *a;
    struct eng_tv *values;
    struct eng_targs args = {0};
    size_t n = 0;

    if (r->rc != BASE_OK)
        return;
    if (fn.kind != ENG_TV_MACRO) {
        eng_tr_fail(r, BASE_INVALID, "call block needs a macro, not '%s'", eng_tv_kind_name(fn));
        return;
    }
    for (a = node->b->b; a != NULL; a = a->next)
        n++;
    values = eng_tr_alloc(r, (n + 1) * sizeof(*values));
    args.names = eng_tr_alloc(r, (n + 1) * sizeof(*args.names));
    if (values == NULL || args.names == NULL)
        return;
    args.v = values;
    for (a = node->b->b; a != NULL && r->rc == BASE_OK; a = a->next) {
        bool named = a->kind == ENG_TN_KEYWORD;

        v = eng_tr_eval(r, scope, named ? a->a : a);
        values[args.n + args.n_named] = v;
        if (named)
            args.names[args.n_named++] = a->name;
        else
            args.n++;
    }
    if (r->rc == BASE_OK)
        eng_tsink_print(r, r->sink, eng_tr_call_macro(r, fn.macro, &args, &caller));
}

static enum flow run_statement(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *node)
{
    r->line = node->line;
    switch ((enum eng_tnode_kind)node->kind) {
    case ENG_TN_TEXT: eng_tsink_add(r, r->sink, node->value.s); break;
    case ENG_TN_OUTPUT: {
        struct eng_tv v = eng_tr_eval(r, scope, node->a);

        if (r->rc == BASE_OK)
            eng_tsink_print(r, r->sink, v);
        break;
    }
    case ENG_TN_IF: return run_if(r, scope, node);
    case ENG_TN_FOR: return run_for(r, scope, node);
    case ENG_TN_SET: assign(r, scope, node->a, eng_tr_eval(r, scope, node->b)); break;
    case ENG_TN_SET_BLOCK: return run_set_block(r, scope, node);
    case ENG_TN_MACRO: eng_tscope_set(r, scope, node->name, make_macro(r, scope, node)); break;
    case ENG_TN_CALL_BLOCK: run_call_block(r, scope, node); break;
    case ENG_TN_FILTER_BLOCK: return run_filter_block(r, scope, node);
    case ENG_TN_WITH: return run_with(r, scope, node);
    case ENG_TN_BLOCK: return run_body(r, scope, node->body);
    case ENG_TN_BREAK: return FLOW_BREAK;
    case ENG_TN_CONTINUE: return FLOW_CONTINUE;
    default: eng_tr_fail(r, BASE_INTERNAL, "unknown statement"); break;
    }
    return FLOW_NEXT;
}

static enum flow run_body(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *body)
{
    enum flow flow = FLOW_NEXT;

    if (scope == NULL || !eng_tr_enter(r))
        return FLOW_NEXT;
    for (; body != NULL && flow == FLOW_NEXT && eng_tr_step(r, 1); body = body->next)
        flow = run_statement(r, scope, body);
    eng_tr_leave(r);
    return flow;
}

/* ---- macros ---- */

static void bind_params(struct eng_trender *r, struct eng_tscope *scope, const struct eng_tnode *params,
                        const struct eng_targs *args)
{
    size_t place = 0, used = 0;

    for (const struct eng_tnode *p = params; p != NULL && r->rc == BASE_OK; p = p->next, place++) {
        const struct eng_tv *given = eng_targ(args, place, p->name->text);

        used += place >= args->n && given != NULL;
        if (given != NULL)
            eng_tscope_set(r, scope, p->name, *given);
        else if (p->a != NULL)
            eng_tscope_set(r, scope, p->name, eng_tr_eval(r, scope, p->a));
        else
            eng_tscope_set(r, scope, p->name, eng_tv_undefined(p->name->text));
    }
    if (r->rc == BASE_OK && (args->n > place || used < args->n_named))
        eng_tr_fail(r, BASE_INVALID, "macro takes not more than %zu arguments, or not this one by name",
                    place);
}

struct eng_tv eng_tr_call_macro(struct eng_trender *r, struct eng_tmacro *macro, const struct eng_targs *args,
                                const struct eng_tv *caller)
{
    struct eng_tscope *scope = eng_tscope_new(r, macro->scope);
    uint32_t line = r->line;
    enum flow flow;
    struct eng_tv text;

    if (scope == NULL)
        return eng_tv_undefined(NULL);
    if (caller != NULL)
        eng_tscope_set(r, scope, eng_tname_find(r->tmpl, "caller", 6), *caller);
    bind_params(r, scope, macro->node->a, args);
    if (r->rc != BASE_OK)
        return eng_tv_undefined(NULL);
    text = capture(r, scope, macro->node->body, &flow);
    if (r->rc == BASE_OK)
        r->line = line;
    return text;
}

enum base_code eng_trender_run(struct eng_trender *r, struct base_buf *out,
                               struct eng_template_span **ret_spans, size_t *ret_n_spans)
{
    struct eng_tscope *scope = eng_tscope_new(r, r->globals);
    struct eng_template_span *spans = NULL;
    struct eng_tsink sink = {0};
    size_t n = 0, cap = 0, base = out->len;

    r->sink = &sink;
    run_body(r, scope, r->tmpl->body);
    r->sink = NULL;
    if (r->rc != BASE_OK)
        return r->rc;
    for (size_t i = 0, end; i < sink.n; i = end) {
        bool marked = sink.marks[i] != 0;

        for (end = i + 1; end < sink.n && (sink.marks[end] != 0) == marked;)
            end++;
        if (n == cap) {
            cap = cap == 0 ? 32 : cap * 2;
            spans = base_realloc(spans, cap * sizeof(*spans)); /* at most one per byte of a bounded text */
        }
        spans[n++] = (struct eng_template_span){base + i, base + end, marked};
    }
    if (sink.n > 0 && base_buf_append(out, sink.p, sink.n) != BASE_OK) {
        free(spans);
        eng_tr_fail(r, BASE_TOO_LARGE, "the rendered text is %zu bytes", sink.n);
        return r->rc;
    }
    *ret_spans = spans;
    *ret_n_spans = n;
    return BASE_OK;
}

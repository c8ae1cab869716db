/* The template interpreter against 65 templates of real models: ten conversations each, rendered by Jinja2.
 */
#include "tap.h"

#include "base/mem.h"
#include "engine/template_priv.h"
#include "json_lite.h"
#include "refdata.h"

/* "template.jinja/conversation" of renderings that differ, ended by NULL. It may only shrink: one that is
 * listed and passes fails the test. */
static const char *const expected_to_fail[] = {NULL};

/* 2025-07-26T10:30:15, the moment of the reference renderings */
#define NOW_US (1753525815LL * 1000000)

static struct eng_tv from_json(struct eng_trender *r, const struct json *v, bool is_role)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};
    struct eng_tv out;

    switch (v->kind) {
    case JSON_NULL: return eng_tv_none();
    case JSON_BOOL: return eng_tv_bool(v->i != 0);
    case JSON_INT: return eng_tv_int(v->i);
    case JSON_FLOAT: return eng_tv_float(v->f);
    case JSON_STRING:
        for (size_t i = 0; is_role && i < BASE_ARRAY_LEN(roles); i++)
            if (strcmp(v->s, roles[i]) == 0)
                return eng_tv_str(v->s, v->n, false);
        return eng_tv_str(v->s, v->n, true);
    case JSON_ARRAY:
        out = eng_tv_list(r, ENG_TLIST, v->n);
        for (struct json *item = v->first; item != NULL; item = item->next)
            eng_tv_append(r, out.list, from_json(r, item, false));
        return out;
    default:
        out = eng_tv_dict(r, v->n);
        for (struct json *item = v->first; item != NULL; item = item->next)
            eng_tv_put(r, out.dict, eng_tv_text(item->key),
                       from_json(r, item, strcmp(item->key, "role") == 0));
        return out;
    }
}

static enum base_code render(const struct eng_template *tmpl, const struct json *conversation,
                             const struct json *how, bool with_tools, struct base_buf *out,
                             struct base_err *err)
{
    struct json *tools = json_get(conversation, "tools"), *extra = json_get(conversation, "extra");
    struct eng_template_span *spans = NULL;
    struct eng_trender r;
    size_t n_spans, end = 0;
    enum base_code rc;

    eng_trender_begin(&r, tmpl, NOW_US, err);
    eng_trender_set(&r, "messages", from_json(&r, json_get(conversation, "messages"), false));
    if (tools != NULL)
        eng_trender_set(&r, "tools", from_json(&r, tools, false));
    else if (with_tools)
        eng_trender_set(&r, "tools", eng_tv_none());
    eng_trender_set(&r, "documents", eng_tv_none());
    eng_trender_set(&r, "add_generation_prompt",
                    from_json(&r, json_get(conversation, "add_generation_prompt"), false));
    eng_trender_set(&r, "bos_token", eng_tv_text(json_get(how, "bos_token")->s));
    eng_trender_set(&r, "eos_token", eng_tv_text(json_get(how, "eos_token")->s));
    for (struct json *v = extra != NULL ? extra->first : NULL; v != NULL; v = v->next)
        eng_trender_set(&r, v->key, from_json(&r, v, false));
    rc = eng_trender_run(&r, out, &spans, &n_spans);
    eng_trender_end(&r);
    if (rc == BASE_OK) {
        for (size_t i = 0; i < n_spans; i++) { /* without gaps, in order */
            CHECK_INT(spans[i].start, end);
            end = spans[i].end;
        }
        CHECK_INT(end, out->len);
    }
    free(spans);
    return rc;
}

static bool is_listed(const char *name)
{
    for (size_t i = 0; expected_to_fail[i] != NULL; i++)
        if (strcmp(expected_to_fail[i], name) == 0)
            return true;
    return false;
}

static void explain(const char *name, const struct base_buf *got, const char *want)
{
    size_t i = 0, from;

    while (i < got->len && want[i] != '\0' && got->data[i] == want[i])
        i++;
    from = i > 40 ? i - 40 : 0;
    printf("# %s differs at byte %zu\n#  got:  ", name, i);
    for (const char *p = got->data + from; p < got->data + got->len && p < got->data + i + 60; p++)
        *p == '\n' ? fputs("\\n", stdout) : putchar(*p);
    printf("\n#  want: ");
    for (const char *p = want + from; *p != '\0' && p < want + i + 60; p++)
        *p == '\n' ? fputs("\\n", stdout) : putchar(*p);
    printf("\n");
}

/* Renders one case; true when it is as Jinja2 has it (its text, or a failure where it fails). */
static bool check_case(const char *name, const struct eng_template *tmpl, const struct json *conversation,
                       const struct json *how, const struct json *want)
{
    struct base_buf out = BASE_BUF_INIT(ENG_TEMPLATE_OUTPUT_MAX);
    struct json *text = json_get(want, "text");
    struct base_err err = {0};
    enum base_code rc =
        render(tmpl, conversation, how, json_get(want, "tools_undefined") == NULL, &out, &err);
    bool same;

    if (text == NULL) {
        same = rc != BASE_OK;
        if (!same)
            printf("# %s renders, Jinja2 says %s\n", name, json_get(want, "error")->s);
    } else if (rc != BASE_OK) {
        same = false;
        printf("# %s: %s\n", name, err.detail);
    } else {
        same = out.len == text->n && (out.len == 0 || memcmp(out.data, text->s, out.len) == 0);
        if (!same)
            explain(name, &out, text->s);
    }
    base_buf_free(&out);
    return same;
}

static void test_render__as_jinja2(void)
{
    char path[1024];
    size_t n;
    auto_free char *conv_text = NULL, *expected_text = NULL;
    struct json *conversations, *expected;
    unsigned texts = 0, right = 0, errors = 0, errors_right = 0, wrong = 0, stale = 0;
    const char *p;

    if (ref_dir() == NULL)
        SKIP("no reference templates");
    snprintf(path, sizeof(path), "%s/templates/conversations.json", ref_dir());
    p = conv_text = json_slurp(path, &n);
    CHECK(p != NULL);
    conversations = json_value(&p);
    snprintf(path, sizeof(path), "%s/templates/expected.json", ref_dir());
    p = expected_text = json_slurp(path, &n);
    CHECK(p != NULL);
    expected = json_value(&p);
    for (struct json *t = json_get(expected, "renderings")->first; t != NULL; t = t->next) {
        struct eng_template *tmpl = NULL;
        struct base_err err = {0};
        char *source;

        snprintf(path, sizeof(path), "%s/templates/%s", ref_dir(), t->key);
        source = json_slurp(path, &n);
        CHECK(source != NULL);
        if (eng_template_compile(&tmpl, source, n, &err) != BASE_OK)
            printf("# %s: %s\n", t->key, err.detail);
        for (struct json *c = json_get(t, "cases")->first; c != NULL; c = c->next) {
            bool has_text = json_get(c, "text") != NULL, same;
            char name[256];

            snprintf(name, sizeof(name), "%s/%s", t->key, c->key);
            same = tmpl != NULL &&
                   check_case(name, tmpl, json_get(json_get(conversations, "conversations"), c->key), t, c);
            texts += has_text;
            errors += !has_text;
            right += has_text && same;
            errors_right += !has_text && same;
            wrong += !same && !is_listed(name);
            if (same && is_listed(name)) {
                printf("# %s is listed as failing and passes: take it off the list\n", name);
                stale++;
            }
        }
        eng_template_free(tmpl);
        free(source);
    }
    json_free(conversations);
    json_free(expected);
    printf("# %u of %u renderings exact, %u of %u refusals refused\n", right, texts, errors_right, errors);
    CHECK_INT(wrong, 0);
    CHECK_INT(stale, 0);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {CASE(test_render__as_jinja2)};

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}

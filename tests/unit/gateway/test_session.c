/* Session tokens, cookies, form fields, and the table of cross-site requests. */
#include "gateway/session.h"

#include "base/mem.h"
#include "gateway/form.h"
#include "gateway/principal.h"
#include "tap.h"

#define OURS "https://gate.example:8443"

static struct base_secret *pepper(unsigned char first)
{
    unsigned char bytes[32] = {first};

    return base_secret_new(bytes, sizeof(bytes));
}

static void test_token_genuine__own_tokens_alone(void)
{
    struct base_secret *ours = pepper(1), *theirs = pepper(2);
    char token[GW_TOKEN_LEN + 1];

    gw_token_create(ours, GW_TOKEN_SESSION, token);
    CHECK_INT(strlen(token), GW_TOKEN_LEN);
    CHECK(gw_token_genuine(ours, GW_TOKEN_SESSION, token, GW_TOKEN_LEN));
    CHECK(!gw_token_genuine(theirs, GW_TOKEN_SESSION, token, GW_TOKEN_LEN));
    CHECK(!gw_token_genuine(ours, GW_TOKEN_LINK, token, GW_TOKEN_LEN)); /* a link is no session */
    CHECK(!gw_token_genuine(ours, GW_TOKEN_SESSION, token, GW_TOKEN_LEN - 1));
    CHECK(!gw_token_genuine(ours, GW_TOKEN_SESSION, "", 0));
    for (unsigned i = 0; i < GW_TOKEN_LEN; i++) {
        char kept = token[i];

        token[i] = kept == 'A' ? 'B' : 'A';
        CHECK(!gw_token_genuine(ours, GW_TOKEN_SESSION, token, GW_TOKEN_LEN));
        token[i] = kept;
    }
    gw_token_create(ours, GW_TOKEN_LINK, token);
    CHECK(gw_token_genuine(ours, GW_TOKEN_LINK, token, GW_TOKEN_LEN));
    CHECK(!gw_token_genuine(ours, GW_TOKEN_SESSION, token, GW_TOKEN_LEN));
    base_secret_free(ours);
    base_secret_free(theirs);
}

static void test_token_hash__differs_by_kind_and_pepper(void)
{
    struct base_secret *one = pepper(1), *two = pepper(2);
    char token[GW_TOKEN_LEN + 1];
    unsigned char a[32], b[32];

    gw_token_create(one, GW_TOKEN_SESSION, token);
    gw_token_hash(one, GW_TOKEN_SESSION, token, a);
    gw_token_hash(one, GW_TOKEN_SESSION, token, b);
    CHECK(memcmp(a, b, 32) == 0);
    gw_token_hash(one, GW_TOKEN_LINK, token, b);
    CHECK(memcmp(a, b, 32) != 0);
    gw_token_hash(two, GW_TOKEN_SESSION, token, b);
    CHECK(memcmp(a, b, 32) != 0);
    base_secret_free(one);
    base_secret_free(two);
}

static void test_csrf_matches__table(void)
{
    struct base_secret *ours = pepper(1), *theirs = pepper(2);
    char session[GW_TOKEN_LEN + 1], other[GW_TOKEN_LEN + 1], csrf[GW_CSRF_LEN + 1], wrong[GW_CSRF_LEN + 1];

    gw_token_create(ours, GW_TOKEN_SESSION, session);
    gw_token_create(ours, GW_TOKEN_SESSION, other);
    gw_csrf_derive(ours, session, csrf);
    CHECK_INT(strlen(csrf), GW_CSRF_LEN);
    CHECK(gw_csrf_matches(ours, session, csrf, GW_CSRF_LEN));
    CHECK(!gw_csrf_matches(ours, session, NULL, 0));
    CHECK(!gw_csrf_matches(ours, session, "", 0));
    CHECK(!gw_csrf_matches(ours, session, csrf, GW_CSRF_LEN - 1));
    CHECK(!gw_csrf_matches(ours, other, csrf, GW_CSRF_LEN)); /* another session's */
    gw_csrf_derive(theirs, session, wrong);
    CHECK(!gw_csrf_matches(ours, session, wrong, GW_CSRF_LEN));
    memcpy(wrong, csrf, sizeof(csrf));
    wrong[0] = wrong[0] == 'x' ? 'y' : 'x';
    CHECK(!gw_csrf_matches(ours, session, wrong, GW_CSRF_LEN));
    base_secret_free(ours);
    base_secret_free(theirs);
}

static unsigned find(const char *header, const char *expected)
{
    const char *value = NULL;
    size_t len = 0;
    unsigned n = gw_cookie_find(header, strlen(header), &value, &len);

    if (n == 1 && (len != strlen(expected) || memcmp(value, expected, len) != 0))
        return 99;
    return n;
}

static void test_cookie_find__table(void)
{
    auto_free char *large = base_zalloc(GW_COOKIE_HEADER_MAX + 2);

    CHECK_INT(find("__Host-gatehouse=abc", "abc"), 1);
    CHECK_INT(find("a=b; __Host-gatehouse=abc; c=d", "abc"), 1);
    CHECK_INT(find("a=b;__Host-gatehouse=abc", "abc"), 1);
    CHECK_INT(find("__Host-gatehouse=", ""), 1);
    CHECK_INT(find("__Host-gatehouse=a=b", "a=b"), 1);
    CHECK_INT(find("", ""), 0);
    CHECK_INT(find(";;; ;", ""), 0);
    CHECK_INT(find("__Host-gatehouse", ""), 0);
    CHECK_INT(find("x__Host-gatehouse=abc", ""), 0);
    CHECK_INT(find("__Host-gatehouse2=abc", ""), 0);
    CHECK_INT(find("__host-gatehouse=abc", ""), 0); /* names of cookies are case-sensitive */
    CHECK_INT(find("a=\"; __Host-gatehouse=abc", "abc"),
              1); /* no quoting in RFC 6265: a quote hides nothing */
    CHECK_INT(find("__Host-gatehouse=a; __Host-gatehouse=b", ""), 2);
    CHECK_INT(find("__Host-gatehouse=a; __Host-gatehouse=a", ""), 2);
    memset(large, 'a', GW_COOKIE_HEADER_MAX + 1);
    CHECK_INT(find(large, ""), 2);
}

static void test_cookie_render__attributes(void)
{
    char out[GW_SET_COOKIE_MAX], token[GW_TOKEN_LEN + 1];
    struct base_secret *ours = pepper(1);

    gw_cookie_render("TOKEN", 3600, out);
    CHECK_STR(out, "__Host-gatehouse=TOKEN; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=3600");
    gw_cookie_render(NULL, 3600, out);
    CHECK_STR(out, "__Host-gatehouse=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    gw_token_create(ours, GW_TOKEN_SESSION, token);
    gw_cookie_render(token, 4000000000u, out);
    CHECK(strstr(out, "Max-Age=4000000000") != NULL); /* the longest fits */
    base_secret_free(ours);
}

static bool ours(const char *origin, const char *sec_fetch_site, bool form)
{
    struct gw_origin_facts facts = {.origin = origin, .sec_fetch_site = sec_fetch_site};

    facts.origin_len = origin != NULL ? strlen(origin) : 0;
    facts.sec_fetch_site_len = sec_fetch_site != NULL ? strlen(sec_fetch_site) : 0;
    return gw_origin_ours(&facts, OURS, form);
}

static void test_origin_ours__table(void)
{
    CHECK(ours(OURS, "same-origin", false));
    CHECK(ours(OURS, NULL, false)); /* a browser without fetch metadata */
    CHECK(!ours(NULL, NULL, false));
    CHECK(!ours(NULL, "same-origin", false));
    CHECK(!ours("", "same-origin", false));
    CHECK(!ours("null", "same-origin", false));
    CHECK(!ours("null", NULL, false));
    CHECK(!ours("https://evil.example", NULL, false));
    CHECK(!ours("https://evil.example", "same-origin", false));
    CHECK(!ours(OURS, "cross-site", false));
    CHECK(!ours(OURS, "same-site", false)); /* a neighbour under the same registrable domain */
    CHECK(!ours(OURS, "none", false));
    CHECK(!ours(OURS, "", false));
    CHECK(!ours("https://gate.example", NULL, false));
    CHECK(!ours("http://gate.example:8443", NULL, false));
    CHECK(!ours("https://gate.example:84430", NULL, false));
    CHECK(!ours("https://gate.example:8443/", NULL, false));
    CHECK(!ours("https://gate.example:8443.evil.example", NULL, false));
    CHECK(!ours("HTTPS://GATE.EXAMPLE:8443", NULL, false));
}

static void test_origin_ours__form_of_a_page_without_referrer(void)
{
    CHECK(ours("null", "same-origin", true));
    CHECK(ours(OURS, "same-origin", true));
    CHECK(ours(OURS, NULL, true));
    CHECK(!ours("null", NULL, true)); /* a sandboxed frame looks like this in an old browser */
    CHECK(!ours("null", "cross-site", true));
    CHECK(!ours("https://evil.example", "same-origin", true));
    CHECK(!ours(NULL, "same-origin", true));
}

static void test_origin_valid__table(void)
{
    CHECK(gw_origin_valid("https://localhost:8443"));
    CHECK(gw_origin_valid("http://127.0.0.1:8080"));
    CHECK(gw_origin_valid("https://[::1]:8443"));
    CHECK(gw_origin_valid("https://gate.example"));
    CHECK(gw_origin_valid("http://gate.example:443"));
    CHECK(!gw_origin_valid("https://gate.example:443"));
    CHECK(!gw_origin_valid("http://gate.example:80"));
    CHECK(!gw_origin_valid("localhost:8443"));
    CHECK(!gw_origin_valid("https://"));
    CHECK(!gw_origin_valid("https://localhost/"));
    CHECK(!gw_origin_valid("https://Localhost"));
    CHECK(!gw_origin_valid("ftp://localhost"));
    CHECK(!gw_origin_valid("https://user@host"));
    CHECK(!gw_origin_valid("https://a\r\nb"));
}

static enum base_code field(const char *text, char out[16])
{
    return gw_form_get(text, strlen(text), "token", out, 16);
}

static void test_form_get__table(void)
{
    char out[16];

    CHECK_INT(field("token=abc", out), BASE_OK);
    CHECK_STR(out, "abc");
    CHECK_INT(field("a=1&token=a%2Bb+c&b=2", out), BASE_OK);
    CHECK_STR(out, "a+b c");
    CHECK_INT(field("tok%65n=abc", out), BASE_OK);
    CHECK_STR(out, "abc");
    CHECK_INT(field("token=", out), BASE_OK);
    CHECK_STR(out, "");
    CHECK_INT(field("token", out), BASE_OK);
    CHECK_STR(out, "");
    CHECK_INT(field("token=a=b", out), BASE_OK);
    CHECK_STR(out, "a=b");
    CHECK_INT(field("&&token=x&", out), BASE_OK);
    CHECK_INT(field("token=exactly15bytes", out), BASE_OK);
    CHECK_INT(field("token=exactly_16_bytes", out), BASE_TOO_LARGE);
    CHECK_INT(field("", out), BASE_NOT_FOUND);
    CHECK_INT(field("Token=abc&atoken=1", out), BASE_NOT_FOUND);
    CHECK_INT(field("token=a&token=b", out), BASE_INVALID);
    CHECK_INT(field("token=a&%74oken=b", out), BASE_INVALID); /* the same name, spelt otherwise */
    CHECK_INT(field("token=%", out), BASE_INVALID);
    CHECK_INT(field("token=%4", out), BASE_INVALID);
    CHECK_INT(field("token=%zz", out), BASE_INVALID);
    CHECK_INT(field("token=a%00b", out), BASE_INVALID);
}

static void test_form_get__too_long(void)
{
    auto_free char *text = base_zalloc(GW_FORM_MAX + 2);
    char out[16];

    memset(text, '&', GW_FORM_MAX);
    memcpy(text, "token=x", 7);
    CHECK_INT(gw_form_get(text, GW_FORM_MAX, "token", out, sizeof(out)), BASE_OK);
    text[GW_FORM_MAX] = '&';
    CHECK_INT(gw_form_get(text, GW_FORM_MAX + 1, "token", out, sizeof(out)), BASE_TOO_LARGE);
}

static void test_principal_fill__whole_or_not_at_all(void)
{
    struct gw_principal p = {.method = GW_AUTH_SESSION};
    char long_subject[GW_SUBJECT_MAX + 1], many[64] = "";

    CHECK_INT(gw_principal_fill(&p, "gatehouse:local", "ada", "default", "admin\nengineer"), BASE_OK);
    CHECK_INT(p.n_roles, 2);
    CHECK_STR(p.roles[1], "engineer");
    CHECK(p.is_admin);
    memset(long_subject, 'a', GW_SUBJECT_MAX);
    long_subject[GW_SUBJECT_MAX] = '\0';
    CHECK_INT(gw_principal_fill(&p, "i", long_subject, "default", ""), BASE_INVALID);
    CHECK_STR(p.subject, "ada"); /* untouched */
    long_subject[GW_SUBJECT_MAX - 1] = '\0';
    CHECK_INT(gw_principal_fill(&p, "i", long_subject, "default", ""), BASE_OK);
    CHECK(!p.is_admin);
    CHECK_INT(p.n_roles, 0);
    CHECK_INT(gw_principal_fill(&p, "i", "", "default", ""), BASE_INVALID);
    CHECK_INT(gw_principal_fill(&p, "i", "s", "default", "a\n\nb"), BASE_INVALID);
    for (unsigned i = 0; i < GW_ROLES_MAX; i++)
        strcat(many, i > 0 ? "\nr" : "r");
    CHECK_INT(gw_principal_fill(&p, "i", "s", "default", many), BASE_OK);
    strcat(many, "\nr");
    CHECK_INT(gw_principal_fill(&p, "i", "s", "default", many), BASE_INVALID);
    CHECK_INT(gw_principal_fill(&p, "i", "s", "default", "administrator\nAdmin"), BASE_OK);
    CHECK(!p.is_admin);
}

static void test_role_valid__table(void)
{
    CHECK(gw_role_valid("admin"));
    CHECK(gw_role_valid("Team_A.b-1"));
    CHECK(!gw_role_valid(""));
    CHECK(!gw_role_valid("a b"));
    CHECK(!gw_role_valid("a\nadmin"));
    CHECK(!gw_role_valid("a,admin"));
    CHECK(gw_role_valid("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
    CHECK(!gw_role_valid("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_token_genuine__own_tokens_alone),
        CASE(test_token_hash__differs_by_kind_and_pepper),
        CASE(test_csrf_matches__table),
        CASE(test_cookie_find__table),
        CASE(test_cookie_render__attributes),
        CASE(test_origin_ours__table),
        CASE(test_origin_ours__form_of_a_page_without_referrer),
        CASE(test_origin_valid__table),
        CASE(test_form_get__table),
        CASE(test_form_get__too_long),
        CASE(test_principal_fill__whole_or_not_at_all),
        CASE(test_role_valid__table),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}

/* The section `identity`: what is refused and where, each beside the document that passes; the mapping to roles; how several roles
 * combine. */
#include "policy/policy.h"
#include "policy/snapshot.h"

#include "tap.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* Lines 1 to 18. */
#define REST                                                                                              \
    "version: 1\n"                                                                                        \
    "classes: {default: public}\n"                                                                        \
    "backends: {local: {engine: {file: m}, max_class: secret}}\n"                                         \
    "models:\n"                                                                                           \
    "  one: {routes: [{backend: local}]}\n"                                                               \
    "  two: {routes: [{backend: local}]}\n"                                                               \
    "  three: {routes: [{backend: local}]}\n"                                                             \
    "limits:\n"                                                                                           \
    "  small: {requests_per_minute: 10, requests_burst: 50, tokens_per_minute: 100}\n"                    \
    "  big: {requests_per_minute: 20, requests_burst: 5, tokens_per_minute: 0, on_store_failure: open}\n" \
    "guards:\n"                                                                                           \
    "  lax: {input: {card: tag}}\n"                                                                       \
    "  tight: {input: {card: block, iban: mask}, output: {card: mask}}\n"                                 \
    "roles:\n"                                                                                            \
    "  employee: {models: [one, two], max_class: confidential, limits: small, guard: lax}\n"              \
    "  admin: {models: [\"*\"], max_class: secret, limits: big, guard: tight}\n"                          \
    "  intern: {models: [], deny_models: [two], max_class: public, limits: small, guard: lax}\n"          \
    "  gone: {models: [], deny_models: [\"*\"], max_class: internal, limits: small, guard: lax}\n"

/* Lines 19 on. */
static const char good[] = REST
    "identity:\n"
    "  default_role: employee\n"
    "  combine: larger\n"
    "  break_glass: true\n"
    "  refresh_s: 600\n"
    "  providers:\n"
    "    corp:\n"
    "      label: Company account\n"
    "      oidc:\n"
    "        issuer: https://login.example.com/realms/corp\n"
    "        client_id: gatehouse\n"
    "        client_secret_file: corp.secret\n"
    "        token_auth: post\n"
    "        scopes: [openid, groups]\n"
    "        algorithms: [RS256, ES384]\n"
    "        max_age_s: 3600\n"
    "        acr: [\"urn:mfa\"]\n"
    "        hosts: [keys.example.com, \"api.example.com:8443\"]\n"
    "        ca_file: /etc/ca.pem\n"
    "        bearer: {audiences: [\"https://gate/v1\"], scim_audiences: [scim], introspection: true}\n"
    "      claims: {groups: roles, separator: ;, directory: upn, directory_required: true}\n"
    "      clock_skew_s: 30\n"
    "    old:\n"
    "      saml: {metadata_file: idp.xml, key_file: k.pem, cert_file: c.pem, want_encrypted: true}\n"
    "      claims: {groups: \"http://schemas.xmlsoap.org/claims/Group\"}\n"
    "  mapping:\n"
    "    - {group: llm-admins, role: admin}\n"
    "    - {provider: corp, claim: department, equals: Intérim, role: intern}\n"
    "  service_accounts:\n"
    "    batch: {roles: [employee], provider: corp, client_id: svc-batch}\n"
    "    nightly: {roles: [employee, intern], cert_sha256: "
    "\"AA:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa\"}\n"
    "  scim: {token_file: scim.token, key: externalId}\n";

/* The good document with the first `from` replaced by `to`. */
static const char *edited(const char *from, const char *to)
{
    static char text[16384];
    const char *at = strstr(good, from);

    CHECK(at != NULL);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    return text;
}

static const char *fault(const char *text)
{
    static struct base_err err;
    struct pol_snapshot *snapshot = NULL;

    memset(&err, 0, sizeof(err));
    if (pol_load(&snapshot, "p.yaml", text, strlen(text), &err) == BASE_OK) {
        pol_unref(snapshot);
        return "fine";
    }
    return err.detail;
}

static struct pol_snapshot *load(const char *text)
{
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};

    CHECK_RC(pol_load(&snapshot, "/etc/gh/p.yaml", text, strlen(text), &err), BASE_OK, &err);
    return snapshot;
}

/* ---- reading ---- */

static void test_identity__absent_section_is_all_defaults(void)
{
    struct pol_snapshot *s = load(REST);

    CHECK_STR(pol_identity(s)->default_role, "");
    CHECK(!pol_identity(s)->strict && !pol_identity(s)->break_glass && !pol_identity(s)->scim);
    CHECK_INT(pol_identity(s)->refresh_s, 900);
    CHECK_INT(pol_n_providers(s) + pol_n_service_accounts(s), 0);
    CHECK(pol_provider_find(s, "corp") == NULL);
    pol_unref(s);
}

static void check_oidc(const struct pol_provider *p)
{
    CHECK_INT(p->kind, POL_PROVIDER_OIDC);
    CHECK_STR(p->label, "Company account");
    CHECK_STR(p->issuer, "https://login.example.com/realms/corp");
    CHECK_STR(p->client_id, "gatehouse");
    CHECK_STR(p->client_secret_file, "/etc/gh/corp.secret");
    CHECK_STR(p->ca_file, "/etc/ca.pem");
    CHECK_STR(p->token_auth, "post");
    CHECK_INT(p->scopes.n, 2);
    CHECK_STR(p->algorithms.items[1], "ES384");
    CHECK_INT(p->hosts.n, 2);
    CHECK_INT(p->max_age_s, 3600);
    CHECK_STR(p->acr.items[0], "urn:mfa");
    CHECK_STR(p->bearer_audiences.items[0], "https://gate/v1");
    CHECK_STR(p->scim_audiences.items[0], "scim");
    CHECK(p->introspection && !p->require_binding && !p->userinfo && p->directory_required);
    CHECK_STR(p->groups_claim, "roles");
    CHECK_STR(p->groups_separator, ";");
    CHECK_STR(p->directory_claim, "upn");
    CHECK_STR(p->name_claim, "name");
    CHECK_INT(p->clock_skew_s, 30);
}

static void test_identity__good_document(void)
{
    struct pol_snapshot *s = load(good);
    const struct pol_provider *old = pol_provider_find(s, "old");
    const struct pol_service_account *account = pol_service_account_at(s, 1);

    CHECK_STR(pol_identity(s)->default_role, "employee");
    CHECK(pol_identity(s)->break_glass && pol_identity(s)->scim && !pol_identity(s)->strict);
    CHECK_INT(pol_identity(s)->refresh_s, 600);
    CHECK_STR(pol_identity(s)->scim_token_file, "/etc/gh/scim.token");
    CHECK_STR(pol_identity(s)->scim_key, "externalId");
    CHECK_INT(pol_n_providers(s), 2);
    check_oidc(pol_provider_at(s, 0));
    CHECK_INT(old->kind, POL_PROVIDER_SAML);
    CHECK_STR(old->label, "old");
    CHECK_STR(old->metadata_file, "/etc/gh/idp.xml");
    CHECK_INT(old->want_signed, POL_SIGNED_RESPONSE);
    CHECK(old->sign_requests && old->want_encrypted);
    CHECK_INT(old->clock_skew_s, 60);
    CHECK_STR(pol_service_account_at(s, 0)->client_id, "svc-batch");
    CHECK_STR(pol_service_account_at(s, 0)->provider, "corp");
    CHECK_INT(account->n_roles, 2);
    CHECK_STR(account->cert_sha256, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    CHECK_INT(s->n_warnings, 0);
    pol_unref(s);
}

static void test_identity__a_short_provider_has_safe_defaults(void)
{
    struct pol_snapshot *s =
        load(REST "identity:\n"
                  "  providers: {c: {oidc: {issuer: \"http://127.0.0.1:9000\", client_id: x}}}\n"
                  "  mapping: [{group: g, role: admin}]\n");
    const struct pol_provider *p = pol_provider_at(s, 0);

    CHECK_STR(p->token_auth, "none");
    CHECK_INT(p->scopes.n, 3);
    CHECK_INT(p->algorithms.n, 3);
    CHECK_INT(p->bearer_audiences.n, 0);
    CHECK_STR(p->groups_claim, "groups");
    CHECK_STR(p->directory_claim, "");
    CHECK_INT(s->n_warnings, 2);
    CHECK(strstr(s->warnings[0], "an issuer without https") != NULL);
    CHECK(strstr(s->warnings[1], "a client without secret") != NULL);
    pol_unref(s);
}

struct fault_row {
    const char *from, *to, *fault;
};

static void check_faults(const struct fault_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK_STR(fault(edited(rows[i].from, rows[i].to)), rows[i].fault);
}

static void test_identity__refusals_of_the_section(void)
{
    static const struct fault_row rows[] = {
        {"default_role: employee", "default_role: employe",
         "p.yaml:20:17: unknown role \"employe\"; did you mean \"employee\"?"},
        {"default_role: employee\n", "default_role: intern\n", "fine"},
        {"combine: larger", "combine: lager",
         "p.yaml:21:12: unknown combine \"lager\"; did you mean \"larger\"?"},
        {"combine: larger", "combine: strict", "fine"},
        {"break_glass: true", "break_glass: yes", "p.yaml:22:16: break_glass must be true or false"},
        {"break_glass: true", "brake_glass: true",
         "p.yaml:22:3: unknown key \"brake_glass\"; did you mean \"break_glass\"?"},
        {"refresh_s: 600", "refresh_s: 59",
         "p.yaml:23:14: refresh_s must be a whole number from 60 to 86400"},
        {"refresh_s: 600", "refresh_s: 60", "fine"},
        {"group: llm-admins, role: admin", "group: llm-admins, role: root",
         "p.yaml:45:33: unknown role \"root\"; did you mean \"gone\"?"},
        {"group: llm-admins, role", "role",
         "p.yaml:45:7: a mapping has either \"group\", or \"claim\" and \"equals\""},
        {"group: llm-admins", "group: x, claim: y, equals: z",
         "p.yaml:45:7: a mapping has either \"group\", or \"claim\" and \"equals\""},
        {"equals: Intérim, ", "", "p.yaml:46:7: a mapping has either \"group\", or \"claim\" and \"equals\""},
        {"group: llm-admins", "claim: y, equals: z", "fine"},
        {"group: llm-admins, role: admin", "group: llm-admins",
         "p.yaml:45:7: a mapping lacks the key \"role\""},
        {"provider: corp, claim", "provider: crop, claim",
         "p.yaml:46:18: unknown provider \"crop\"; did you mean \"corp\"?"},
        {"provider: corp, claim", "provider: old, claim", "fine"},
        {"    batch: {roles: [employee]", "    batch: {roles: []",
         "p.yaml:48:20: a service account has 1 to 16 roles, this one 0"},
        {"    batch:", "    a/b:",
         "p.yaml:48:5: a service account's name may hold only letters, digits, - and _"},
        {"client_id: svc-batch", "client_secret: x",
         "p.yaml:48:48: unknown key \"client_secret\"; allowed: roles, cert_sha256, provider, client_id"},
        {", client_id: svc-batch", "",
         "p.yaml:48:12: a service account has \"provider\" and \"client_id\" together"},
        {"provider: corp, client_id", "provider: old, client_id",
         "p.yaml:48:42: provider \"old\" takes no access tokens: it has no oidc.bearer"},
        {"provider: corp, client_id: svc-batch", "roles: [admin]",
         "p.yaml:48:32: the key \"roles\" stands here twice (first value at 48:20)"},
        {", provider: corp, client_id: svc-batch", "", "fine"}, /* keys alone */
        {"\"AA:aa", "\"AA:a",
         "p.yaml:49:55: cert_sha256 must be the SHA-256 of a certificate: 64 hex digits, as "
         "openssl x509 -fingerprint -sha256 prints them"},
        {"\"AA:aa", "\"AA::aa",
         "p.yaml:49:55: cert_sha256 must be the SHA-256 of a certificate: 64 hex digits, as "
         "openssl x509 -fingerprint -sha256 prints them"},
        {"provider: corp, client_id: svc-batch}",
         "cert_sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}",
         "p.yaml:49:5: service accounts \"batch\" and \"nightly\" have the same certificate"},
        {"    batch:", "    other: {roles: [admin], provider: corp, client_id: svc-batch}\n    batch:",
         "p.yaml:49:5: service accounts \"other\" and \"batch\" have the same client"},
        {"    batch:", "    other: {roles: [admin], provider: corp, client_id: svc-other}\n    batch:",
         "fine"},
        {"\"AA:aa:aa", "\"aaaaAA", "fine"},
        {"scim: {token_file: scim.token, key: externalId}", "scim: {key: email}",
         "p.yaml:50:15: unknown key \"email\"; allowed: userName, externalId"},
        {"token_file: scim.token, ", "", "fine"}, /* there are scim_audiences */
        {"  scim: {token_file: scim.token, key: externalId}\n", "",
         "p.yaml:20:3: provider \"corp\" has directory_required, and there is no scim: nobody could come in"},
    };

    check_faults(rows, N(rows));
}

static void test_identity__refusals_of_a_provider(void)
{
    static const struct fault_row rows[] = {
        {"    corp:\n", "    co.rp:\n",
         "p.yaml:25:5: a provider's name may hold only letters, digits, - and _"},
        {"label: Company account", "label: \"a\\x01b\"",
         "p.yaml:26:14: label may not hold control characters"},
        {"label: Company account", "lable: x", "p.yaml:26:7: unknown key \"lable\"; did you mean \"label\"?"},
        {"clock_skew_s: 30", "clock_skew_s: 301",
         "p.yaml:40:21: clock_skew_s must be a whole number from 0 to 300"},
        {"clock_skew_s: 30", "clock_skew_s: 0", "fine"},
        {"      saml: {", "      oidc: {issuer: \"https://a\", client_id: b}\n      saml: {",
         "p.yaml:41:5: provider \"old\" must have either \"oidc\" or \"saml\""},
        {"      saml: {metadata_file: idp.xml, key_file: k.pem, cert_file: c.pem, want_encrypted: true}\n",
         "      oidc: {issuer: \"https://login.example.com/realms/corp\", client_id: b}\n",
         "p.yaml:41:5: providers \"corp\" and \"old\" have the same issuer"},
        {"token_auth: post", "token_auth: none",
         "p.yaml:31:21: token_auth: none is for a client without secret; leave out client_secret_file"},
        {"        client_secret_file: corp.secret\n        token_auth: post\n", "",
         "p.yaml:36:17: introspection needs client_secret_file: the provider asks who is asking"},
        {"client_secret_file: corp.secret\n", "client_secret: abc\n",
         "p.yaml:30:9: unknown key \"client_secret\"; allowed: issuer, client_id, client_secret_file, "
         "token_auth, "
         "scopes, algorithms, max_age_s, acr, userinfo, hosts, ca_file, bearer"},
        {"        client_secret_file: corp.secret\n", "",
         "p.yaml:30:21: token_auth: post needs client_secret_file"},
        {"[openid, groups]", "[groups]",
         "p.yaml:32:17: scopes must hold openid: without it there is no ID token"},
        {"[openid, groups]", "[openid, \"a b\"]",
         "p.yaml:32:26: scopes: \"a b\" holds a character that a scope may not have"},
        {"[openid, groups]", "[openid, openid]", "p.yaml:32:26: scopes: \"openid\" stands there twice"},
        {"[RS256, ES384]", "[none]",
         "p.yaml:33:22: algorithms: \"none\" means no signature: anybody could write such a token"},
        {"[RS256, ES384]", "[RS256, NONE]",
         "p.yaml:33:29: algorithms: \"NONE\" means no signature: anybody could write such a token"},
        {"[RS256, ES384]", "[HS256]",
         "p.yaml:33:22: algorithms: \"HS256\" signs with a shared secret: whoever may check such a token may "
         "also "
         "make it; use an algorithm with a key pair"},
        {"[RS256, ES384]", "[RS1]",
         "p.yaml:33:22: algorithms: \"RS1\" is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, "
         "ES384, "
         "ES512"},
        {"[RS256, ES384]", "[]", "p.yaml:33:21: algorithms must name at least one"},
        {"[RS256, ES384]", "[PS512]", "fine"},
        {"\"api.example.com:8443\"", "\"https://api.example.com\"",
         "p.yaml:36:35: hosts: \"https://api.example.com\" must be a host or host:port, without https:// and "
         "path"},
        {"\"api.example.com:8443\"", "\"api.example.com:0\"",
         "p.yaml:36:35: hosts: \"api.example.com:0\" has a port that is no number from 1 to 65535"},
        {"\"api.example.com:8443\"", "\"[::1]:8443\"", "fine"},
        {"audiences: [\"https://gate/v1\"], scim_audiences: [scim], ", "",
         "p.yaml:38:17: bearer needs audiences or scim_audiences: no token could match"},
        {"scim_audiences: [scim]", "scim_audiences: [\"https://gate/v1\"]",
         "p.yaml:38:17: \"https://gate/v1\" is in audiences and scim_audiences: whoever may chat could write "
         "the "
         "directory"},
        {"directory: upn, ", "",
         "p.yaml:39:15: directory_required needs directory: the claim that names a person to the directory"},
        {"separator: ;", "separator: \"--------\"",
         "p.yaml:39:42: separator is 8 characters long; at most 7"},
        {"separator: ;", "separator: \"\"", "fine"},
        {", cert_file: c.pem", "", "p.yaml:42:13: key_file and cert_file belong together"},
        {", key_file: k.pem, cert_file: c.pem, want_encrypted: true", "",
         "p.yaml:42:13: requests are signed: name key_file and cert_file, or write sign_requests: false"},
        {", key_file: k.pem, cert_file: c.pem, want_encrypted: true", ", sign_requests: false", "fine"},
        {", key_file: k.pem, cert_file: c.pem,", ", sign_requests: false,",
         "p.yaml:42:13: want_encrypted needs key_file and cert_file"},
        {"want_encrypted: true", "want_signed: nothing",
         "p.yaml:42:86: unknown want_signed \"nothing\"; allowed: response, assertion, either"},
        {"want_encrypted: true", "want_signed: either", "fine"},
        {"metadata_file: idp.xml, ", "", "p.yaml:42:13: saml lacks the key \"metadata_file\""},
    };

    check_faults(rows, N(rows));
}

static void test_identity__issuers(void)
{
    static const struct {
        const char *issuer, *fault; /* "": fine */
    } rows[] = {
        {"https://a.example", ""},
        {"https://a.example/", ""}, /* kept as it is: the provider's own spelling counts */
        {"https://a.example:8443/x/y", ""},
        {"https://[2001:db8::1]/x", ""},
        {"http://127.0.0.1:9000", ""},
        {"http://localhost", ""},
        {"http://[::1]:80", ""},
        {"https://login.microsoftonline.com/6babcaad-604b-40ac-a9d7-9fd97c0b779f/v2.0", ""},
        {"a.example", "must begin with https://"},
        {"ftp://a.example", "must begin with https://"},
        {"http://a.example", "must begin with https://; http:// is for a provider on this machine alone "
                             "(127.0.0.1, [::1], localhost)"},
        {"http://127.0.0.1.example", "must begin with https://; http:// is for a provider on this machine "
                                     "alone (127.0.0.1, [::1], localhost)"},
        {"http://localhost.example", "must begin with https://; http:// is for a provider on this machine "
                                     "alone (127.0.0.1, [::1], localhost)"},
        {"https://u:p@a.example", "may not hold user information, a query or a fragment (? # @)"},
        {"https://a.example/?x", "may not hold user information, a query or a fragment (? # @)"},
        {"https://a.example#x", "may not hold user information, a query or a fragment (? # @)"},
        {"https://", "has no valid host name"},
        {"https://:80", "has no valid host name"},
        {"https://a b", "has no valid host name"},
        {"https://[::1", "has no valid host name"},
        {"https://a:65536", "has a port that is no number from 1 to 65535"},
        {"https://a:", "has a port that is no number from 1 to 65535"},
        {"https://[::1]x", "has a port that is no number from 1 to 65535"},
        {"https://a/../b", "has a path with characters that are not allowed"},
        {"https://a/é", "has a path with characters that are not allowed"},
        {"https://login.microsoftonline.com/common/v2.0",
         "would let every company in: put your own tenant's id in place of common or organizations"},
        {"https://LOGIN.microsoftonline.com/organizations/v2.0",
         "would let every company in: put your own tenant's id in place of common or organizations"},
    };
    char to[512], want[512];

    for (size_t i = 0; i < N(rows); i++) {
        snprintf(to, sizeof(to), "issuer: \"%s\"", rows[i].issuer);
        snprintf(want, sizeof(want), "p.yaml:28:17: issuer %s", rows[i].fault);
        CHECK_STR(fault(edited("issuer: https://login.example.com/realms/corp", to)),
                  rows[i].fault[0] == '\0' ? "fine" : want);
    }
}

static void test_identity__limits(void)
{
    static char text[65536];
    size_t n =
        (size_t)snprintf(text, sizeof(text), "%s",
                         REST "identity:\n  providers: {c: {oidc: {issuer: \"https://a\", client_id: x}}}\n"
                              "  mapping:\n");
    size_t start = n;

    for (unsigned i = 0; i < POL_MAPPINGS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "    - {group: g%u, role: admin}\n", i);
    CHECK_STR(fault(text), "fine");
    snprintf(text + n, sizeof(text) - n, "    - {group: g, role: admin}\n");
    CHECK_STR(fault(text), "p.yaml:22:5: mapping has 1 to 256 entries, this one 257");
    n = start;
    for (unsigned i = 0; i < POL_LIST_MAX * 4 - 2; i++) /* and the groups */
        n += (size_t)snprintf(text + n, sizeof(text) - n, "    - {claim: c%u, equals: x, role: admin}\n", i);
    CHECK_STR(fault(text), "fine");
    snprintf(text + n, sizeof(text) - n, "    - {claim: more, equals: x, role: admin}\n");
    CHECK_STR(fault(text), "p.yaml:22:5: mapping reads more than 63 claims of provider \"c\"");
    snprintf(text + start, sizeof(text) - start, "    []\n");
    CHECK_STR(fault(text), "p.yaml:22:5: mapping has 1 to 256 entries, this one 0");
}

static const char *warnings(const char *text)
{
    static char all[4096];
    struct pol_snapshot *s = load(text);

    all[0] = '\0';
    for (size_t i = 0; i < s->n_warnings; i++) {
        strncat(all, s->warnings[i], sizeof(all) - strlen(all) - 2);
        strcat(all, "\n");
    }
    pol_unref(s);
    return all;
}

static void test_identity__warns_of_weak_settings(void)
{
    CHECK_STR(warnings(good), "");
    CHECK_STR(warnings(edited("want_encrypted: true", "want_signed: assertion")),
              "provider \"old\": want_signed assertion leaves the response around the assertion unsigned; "
              "sign both "
              "and write response\n");
    CHECK_STR(warnings(edited("want_encrypted: true", "sign_requests: false")),
              "provider \"old\": requests are not signed\n");
    CHECK_STR(warnings(edited("clock_skew_s: 30", "clock_skew_s: 121")),
              "provider \"corp\": clock_skew_s 121 lets expired tokens in; set the clocks instead\n");
    CHECK_STR(
        warnings(edited("claims: {groups: roles", "claims: {subject: email, groups: roles")),
        "provider \"corp\": an e-mail address as subject can be given to another person, who then has the "
        "first one's rights\n");
    CHECK_STR(warnings(edited("role: admin}", "role: employee}")),
              "no mapping gives role \"admin\": nobody who signs in can administer\n");
    CHECK_STR(warnings(edited("default_role: employee", "default_role: admin")),
              "default_role admin: whoever has an account at a provider administers this gateway\n");
    CHECK_STR(warnings(REST "identity: {providers: {c: {oidc: {issuer: \"https://a\", client_id: x, "
                            "client_secret_file: f}}}}\n"),
              "provider \"c\": no mapping and no default_role, so nobody comes in by it\n"
              "no mapping gives role \"admin\": nobody who signs in can administer\n");
}

/* ---- mapping ---- */

static const char mapped[] = REST
    "identity:\n"
    "%s"
    "  providers:\n"
    "    list: {oidc: {issuer: \"https://a\", client_id: x}, claims: {directory: upn}}\n"
    "    cut: {oidc: {issuer: \"https://b\", client_id: x}, claims: {groups: memberOf, separator: \"; \"}}\n"
    "  mapping:\n"
    "    - {group: admins, role: admin}\n"
    "    - {group: staff, role: employee}\n"
    "    - {provider: cut, group: guests, role: intern}\n"
    "    - {claim: department, equals: Büro, role: intern}\n"
    "    - {provider: list, claim: state, equals: left, role: gone}\n"
    "    - {group: more-staff, role: employee}\n";

struct map_row {
    const char *provider; /* NULL: the directory */
    struct pol_claim claims[4];
    const char *roles; /* joined by blanks */
};

static const char *map(struct pol_snapshot *s, const struct map_row *row, size_t max)
{
    static char joined[256];
    const char *roles[16] = {NULL};
    size_t n_claims = 0, n;
    enum base_code rc = BASE_INTERNAL;

    while (n_claims < 4 && row->claims[n_claims].name != NULL)
        n_claims++;
    n = pol_map_roles(s, row->provider != NULL ? pol_provider_find(s, row->provider) : NULL, row->claims,
                      n_claims, roles, max, &rc);
    if (rc != BASE_OK) {
        CHECK_INT(n, 0);
        CHECK(roles[0] == NULL); /* nothing is written past the room that there is */
        return base_code_name(rc);
    }
    joined[0] = '\0';
    for (size_t i = 0; i < n; i++)
        snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "%s%s", i > 0 ? " " : "",
                 roles[i]);
    return joined;
}

static struct pol_snapshot *load_mapped(const char *general)
{
    char text[16384];

    snprintf(text, sizeof(text), mapped, general);
    return load(text);
}

static void test_map_roles__table(void)
{
    static const struct map_row rows[] = {
        {"list", {{NULL, NULL}}, ""},
        {"list", {{"groups", "admins"}}, "admin"},
        {"list", {{"groups", "staff"}, {"groups", "admins"}}, "admin employee"}, /* the document's order */
        {"list", {{"groups", "staff"}, {"groups", "more-staff"}}, "employee"},   /* no role twice */
        {"list", {{"groups", "Admins"}}, ""},                                    /* letter by letter */
        {"list", {{"groups", "admins "}}, ""},
        {"list", {{"groups", "admins; staff"}}, ""}, /* no separator was declared */
        {"list", {{"group", "admins"}}, ""},
        {"list", {{"memberOf", "admins"}}, ""},
        {"list", {{"groups", "guests"}}, ""}, /* another provider's rule */
        {"list", {{"department", "Büro"}}, "intern"},
        {"list", {{"state", "left"}, {"groups", "staff"}}, "employee gone"},
        {"cut", {{"memberOf", "admins"}}, "admin"},
        {"cut", {{"memberOf", "users; staff;  admins "}}, "admin employee"},
        {"cut", {{"memberOf", "guests"}, {"memberOf", "staff; x"}}, "employee intern"},
        {"cut", {{"memberOf", "not-admins; admins-not; xadmins"}}, ""},
        {"cut", {{"memberOf", "; ; "}}, ""},
        {"cut", {{"memberOf", ""}}, ""},
        {"cut", {{"groups", "admins"}}, ""},
        {"cut", {{"department", "a; Büro"}}, ""}, /* the separator is for groups */
        {"cut", {{"state", "left"}}, ""},
        {NULL, {{"groups", "admins"}}, "admin"},
        {NULL, {{"groups", "guests"}}, ""},
        {NULL, {{"department", "Büro"}}, ""},
    };
    struct pol_snapshot *s = load_mapped(""), *with_default = load_mapped("  default_role: intern\n");

    for (size_t i = 0; i < N(rows); i++) {
        bool stands_in = rows[i].roles[0] == '\0' && rows[i].provider != NULL;

        CHECK_STR(map(s, &rows[i], 16), rows[i].roles);
        CHECK_STR(map(with_default, &rows[i], 16), stands_in ? "intern" : rows[i].roles);
    }
    CHECK_STR(map(s, &rows[2], 2), "admin employee");
    CHECK_STR(map(s, &rows[2], 1), "full"); /* not half of the roles */
    pol_unref(s);
    pol_unref(with_default);
}

static void test_claims_wanted__each_name_once(void)
{
    struct pol_snapshot *s = load_mapped("");
    const char *names[POL_LIST_MAX * 4];

    CHECK_INT(pol_claims_wanted(s, pol_provider_find(s, "list"), names), 4);
    CHECK_STR(names[0], "groups");
    CHECK_STR(names[1], "upn");
    CHECK_STR(names[2], "department");
    CHECK_STR(names[3], "state");
    CHECK_INT(pol_claims_wanted(s, pol_provider_find(s, "cut"), names), 2);
    CHECK_STR(names[0], "memberOf");
    CHECK_STR(names[1], "department");
    pol_unref(s);
}

/* ---- several roles ---- */

struct combine_row {
    const char *roles[3];
    const char *visible;           /* letters of the models one, two, three: "oth" */
    enum pol_class larger, strict; /* ceiling of model one; UNKNOWN: denied */
};

static enum pol_class ceiling(struct pol_snapshot *s, const char *const *roles, size_t n, const char *model)
{
    enum pol_class highest = POL_CLASS_UNKNOWN;

    for (int cls = POL_PUBLIC; cls <= POL_SECRET; cls++) {
        const struct pol_facts facts = {
            .roles = roles, .n_roles = n, .model = model, .label_given = true, .label = (enum pol_class)cls};
        struct pol_decision d;

        pol_decide(s, &facts, &d);
        if (d.effect == POL_ALLOW)
            highest = (enum pol_class)cls;
    }
    return highest;
}

static void test_decide__several_roles_combine_as_stated(void)
{
    static const struct combine_row rows[] = {
        {{"employee"}, "ot", POL_CONFIDENTIAL, POL_CONFIDENTIAL},
        {{"employee", "intern"}, "o", POL_CONFIDENTIAL, POL_PUBLIC},
        {{"intern", "employee"}, "o", POL_CONFIDENTIAL, POL_PUBLIC},
        {{"admin", "employee"}, "oth", POL_SECRET, POL_CONFIDENTIAL},
        {{"admin", "intern"}, "oh", POL_SECRET, POL_PUBLIC}, /* deny wins over "*" */
        {{"admin", "employee", "gone"}, "", POL_CLASS_UNKNOWN, POL_CLASS_UNKNOWN},
        {{"gone"}, "", POL_CLASS_UNKNOWN, POL_CLASS_UNKNOWN},
        {{"nobody", "employee"}, "ot", POL_CONFIDENTIAL, POL_CONFIDENTIAL}, /* unknown: no effect */
    };
    struct pol_snapshot *larger = load(REST), *strict = load(REST "identity: {combine: strict}\n");

    for (size_t i = 0; i < N(rows); i++) {
        size_t n = 0, at = 0;
        char visible[4] = "";

        while (n < 3 && rows[i].roles[n] != NULL)
            n++;
        for (size_t m = 0; m < 3; m++)
            if (pol_model_visible(larger, m, rows[i].roles, n))
                visible[at++] = "oth"[m];
        CHECK_STR(visible, rows[i].visible);
        CHECK_INT(ceiling(larger, rows[i].roles, n, "one"), rows[i].larger);
        CHECK_INT(ceiling(strict, rows[i].roles, n, "one"), rows[i].strict);
    }
    pol_unref(larger);
    pol_unref(strict);
}

static void test_decide__a_denied_model_looks_like_one_that_nobody_granted(void)
{
    static const char *const roles[] = {"admin", "intern"};
    const struct pol_facts facts = {.roles = roles, .n_roles = 2, .model = "two"};
    struct pol_snapshot *s = load(REST);
    struct pol_decision d;

    pol_decide(s, &facts, &d);
    CHECK_INT(d.deny, POL_DENY_MODEL_NOT_ALLOWED);
    CHECK_INT(d.n_routes, 0);
    CHECK_STR(d.reasons[0], "role intern denies model two");
    pol_unref(s);
}

static void test_decide__strict_limits_are_the_smaller_and_the_guard_is_always_the_stricter(void)
{
    static const char *const roles[] = {"employee", "admin"};
    const struct pol_facts facts = {.roles = roles, .n_roles = 2, .model = "one"};
    struct pol_snapshot *larger = load(REST), *strict = load(REST "identity: {combine: strict}\n");
    struct pol_decision d[2];

    pol_decide(larger, &facts, &d[0]);
    pol_decide(strict, &facts, &d[1]);
    CHECK_INT(d[0].limits.requests_per_minute, 20);
    CHECK_INT(d[0].limits.requests_burst, 50);
    CHECK_INT(d[0].limits.tokens_per_minute, 0);
    CHECK_INT(d[1].limits.requests_per_minute, 10);
    CHECK_INT(d[1].limits.requests_burst, 5);
    CHECK_INT(d[1].limits.tokens_per_minute, 100); /* "no limit" is the largest */
    for (int i = 0; i < 2; i++) {
        CHECK_INT(d[i].effect, POL_ALLOW);
        CHECK_STR(d[i].limits.name, "small+big");
        CHECK_INT(d[i].limits.fail_mode, POL_FAIL_CLOSED);
        CHECK_INT(d[i].guard.input[POL_DETECT_CARD], POL_ACTION_BLOCK);
        CHECK_INT(d[i].guard.input[POL_DETECT_IBAN], POL_ACTION_MASK);
        CHECK_INT(d[i].guard.output[POL_DETECT_CARD], POL_ACTION_MASK);
    }
    pol_unref(larger);
    pol_unref(strict);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_identity__absent_section_is_all_defaults),
        CASE(test_identity__good_document),
        CASE(test_identity__a_short_provider_has_safe_defaults),
        CASE(test_identity__refusals_of_the_section),
        CASE(test_identity__refusals_of_a_provider),
        CASE(test_identity__issuers),
        CASE(test_identity__limits),
        CASE(test_identity__warns_of_weak_settings),
        CASE(test_map_roles__table),
        CASE(test_claims_wanted__each_name_once),
        CASE(test_decide__several_roles_combine_as_stated),
        CASE(test_decide__a_denied_model_looks_like_one_that_nobody_granted),
        CASE(test_decide__strict_limits_are_the_smaller_and_the_guard_is_always_the_stricter),
    };

    return tap_main(cases, N(cases), argc, argv);
}

/* The document: what is refused, where, and in which words; each refusal beside the document that passes. */
#include "policy/policy.h"
#include "policy/snapshot.h"
#include "policy/yaml.h"

#include "tap.h"

static const char good[] =
    "version: 1\n"
    "classes:\n"
    "  default: internal\n"
    "  markings:\n"
    "    secret: [TOP SECRET, GEHEIM]\n"
    "  detectors:\n"
    "    card: secret\n"
    "backends:\n"
    "  local: {engine: {file: m.gguf, threads: 4}, max_class: secret}\n"
    "  far: {provider: {base_url: https://api.example/v1, api_key_file: /k}, max_class: internal}\n"
    "models:\n"
    "  demo: {routes: [{backend: local}]}\n"
    "  both: {description: Two ways, routes: [{backend: far, model: big}, {backend: local, model: demo}]}\n"
    "limits:\n"
    "  std: {requests_per_minute: 60, tokens_per_minute: 1000, requests_burst: 5}\n"
    "guards:\n"
    "  std: {input: {card: mask}, output: {card: tag}}\n"
    "roles:\n"
    "  employee: {models: [demo, both], max_class: confidential, limits: std, guard: std}\n";

/* The good document with the first `from` replaced by `to`. */
static const char *edited(const char *from, const char *to)
{
    static char text[8192];
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
    CHECK(snapshot == NULL);
    return err.detail;
}

static void test_load__good_document(void)
{
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};
    const char *const roles[] = {"employee"};

    CHECK_RC(pol_load(&snapshot, "/etc/gh/p.yaml", good, strlen(good), &err), BASE_OK, &err);
    CHECK_INT(pol_n_backends(snapshot), 2);
    CHECK_STR(pol_backend_at(snapshot, 0)->name, "local");
    CHECK_INT(pol_backend_at(snapshot, 0)->kind, POL_BACKEND_ENGINE);
    CHECK_STR(pol_backend_at(snapshot, 0)->file, "/etc/gh/m.gguf");
    CHECK_INT(pol_backend_at(snapshot, 0)->threads, 4);
    CHECK_STR(pol_backend_at(snapshot, 1)->api_key_file, "/k");
    CHECK(pol_backend_at(snapshot, 1)->ca_file == NULL);
    CHECK_INT(pol_backend_at(snapshot, 1)->connect_timeout_ms, 5000);
    CHECK_INT(pol_n_models(snapshot), 2);
    CHECK(pol_model_at(snapshot, 0)->local_only && !pol_model_at(snapshot, 1)->local_only);
    CHECK_INT(pol_model_at(snapshot, 1)->max_class, POL_SECRET);
    CHECK_STR(pol_model_at(snapshot, 1)->description, "Two ways");
    CHECK_STR(pol_model_at(snapshot, 0)->description, "");
    CHECK(pol_model_visible(snapshot, 0, roles, 1) && !pol_model_visible(snapshot, 0, roles, 0));
    CHECK(pol_role_exists(snapshot, "employee") && !pol_role_exists(snapshot, "Employee"));
    CHECK_INT(strlen(pol_hash(snapshot)), 64);
    CHECK_INT(snapshot->n_warnings, 0);
    pol_unref(pol_ref(snapshot));
    pol_unref(snapshot);
}

struct fault_row {
    const char *from, *to, *fault;
};

static void test_load__refusals_say_where_and_what(void)
{
    static const struct fault_row rows[] = {
        {"version: 1", "version: 1", "fine"},
        {"version: 1", "version: 2", "p.yaml:1:10: version must be 1; this program knows no other"},
        {"version: 1\n", "", "p.yaml:1:1: the document lacks the key \"version\""},
        {"classes:", "clases:", "p.yaml:2:1: unknown key \"clases\"; did you mean \"classes\"?"},
        {"default: internal", "default: intern",
         "p.yaml:3:12: unknown class \"intern\"; did you mean \"internal\"?"},
        {"default: internal", "default: SECRET", "fine"},
        {"default: internal", "default: [x]", "p.yaml:3:12: a class must be a word or number"},
        {"default: internal", "default:", "p.yaml:3:3: a class must be a word or number"},
        {"secret: [TOP", "secrets: [TOP", "p.yaml:5:5: unknown key \"secrets\"; did you mean \"secret\"?"},
        {"[TOP SECRET, GEHEIM]", "[X]", "p.yaml:5:14: a marking has 3 to 64 characters"},
        {"[TOP SECRET, GEHEIM]", "[GEHEIMÜ]", "p.yaml:5:14: a marking may hold only ASCII characters"},
        {"[TOP SECRET, GEHEIM]", "GEHEIM", "p.yaml:5:13: the markings of a class must be a list"},
        {"[TOP SECRET, GEHEIM]", "[\"(.*)+[\"]", "fine"}, /* no pattern language */
        {"card: secret", "cards: secret", "p.yaml:7:5: unknown key \"cards\"; did you mean \"card\"?"},
        {"card: secret", "telephone: secret",
         "p.yaml:7:5: unknown key \"telephone\"; allowed: card, iban, email, private_key, aws_key, "
         "github_token, slack_token, jwt"},
        {"file: m.gguf, ", "", "p.yaml:9:19: engine lacks the key \"file\""},
        {"threads: 4", "threads: -4", "p.yaml:9:43: threads must be a whole number from 0 to 1024"},
        {"threads: 4", "threads: 1025", "p.yaml:9:43: threads must be a whole number from 0 to 1024"},
        {"threads: 4", "threads: 1024", "fine"},
        {"threads: 4", "threads: \"4\"", "p.yaml:9:43: threads must be a whole number from 0 to 1024"},
        {"threads: 4", "thread: 4", "p.yaml:9:34: unknown key \"thread\"; did you mean \"threads\"?"},
        {", max_class: secret}", "}", "p.yaml:9:10: a backend lacks the key \"max_class\""},
        {"engine: {file: m.gguf, threads: 4}, ", "",
         "p.yaml:9:3: backend \"local\" must have either \"engine\" or \"provider\""},
        {"https://api.example/v1", "http://api.example/v1",
         "p.yaml:10:30: base_url must begin with https://"},
        {"https://api.example/v1", "https://u:p@api.example/v1",
         "p.yaml:10:30: base_url may not hold user information, a query or a fragment (? # @)"},
        {"https://api.example/v1", "https://api.example/v1?x=1",
         "p.yaml:10:30: base_url may not hold user information, a query or a fragment (? # @)"},
        {"https://api.example/v1", "https://api.example",
         "p.yaml:10:30: base_url must end with a path such as /v1, without a slash at its end"},
        {"https://api.example/v1", "https://api.example/v1/",
         "p.yaml:10:30: base_url must end with a path such as /v1, without a slash at its end"},
        {"https://api.example/v1", "https://api.example:0/v1",
         "p.yaml:10:30: base_url has a port that is no number from 1 to 65535"},
        {"https://api.example/v1", "https://api.example:70000/v1",
         "p.yaml:10:30: base_url has a port that is no number from 1 to 65535"},
        {"https://api.example/v1", "https://api.example:8443/v1", "fine"},
        {"https://api.example/v1", "\"https://[::1]:8443/v1\"", "fine"},
        {"https://api.example/v1", "https://api_x.example/v1",
         "p.yaml:10:30: base_url has no valid host name"},
        {"https://api.example/v1", "https:///v1", "p.yaml:10:30: base_url has no valid host name"},
        {"https://api.example/v1", "https://api.example/../v1",
         "p.yaml:10:30: base_url has a path with characters that are not allowed"},
        {"backend: local}]}", "backend: locale}]}",
         "p.yaml:12:29: unknown backend \"locale\"; did you mean \"local\"?"},
        {"[{backend: local}]", "[]", "p.yaml:12:18: a model has 1 to 8 routes, this one 0"},
        {"[{backend: local}]", "{backend: local}", "p.yaml:12:18: routes must be a list"},
        {"demo: {routes", "de mo: {routes",
         "p.yaml:12:3: a model's name may hold only letters, digits and . _ : / -"},
        {"demo: {routes", "demo: {router", "p.yaml:12:10: unknown key \"router\"; did you mean \"routes\"?"},
        {"requests_per_minute: 60, ", "", "p.yaml:15:8: a limit lacks the key \"requests_per_minute\""},
        {"requests_per_minute: 60", "requests_per_minute: 0", "fine"},
        {"requests_burst: 5", "requests_burst: 0",
         "p.yaml:15:75: requests_burst must be a whole number from 1 to 1000000000"},
        {"requests_burst: 5", "on_store_failure: opened",
         "p.yaml:15:77: unknown value \"opened\"; did you mean \"open\"?"},
        {"requests_burst: 5", "on_store_failure: open", "fine"},
        {"card: mask", "card: masked", "p.yaml:17:23: unknown action \"masked\"; did you mean \"mask\"?"},
        {"card: mask", "card: force_local", "fine"},
        {"card: tag", "card: force_local",
         "p.yaml:17:45: force_local is for input only; the answer has already left its model"},
        {"models: [demo, both]", "models: [demo, bot]",
         "p.yaml:19:29: unknown model \"bot\"; did you mean \"both\"?"},
        {"models: [demo, both]", "models: [\"*\"]", "fine"},
        {"limits: std, ", "", "p.yaml:19:13: a role lacks the key \"limits\""},
        {"limits: std, ", "limits: stx, ", "p.yaml:19:69: unknown limit \"stx\"; did you mean \"std\"?"},
        {"guard: std", "guard: none", "p.yaml:19:81: unknown guard \"none\"; allowed: std"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        CHECK_STR(fault(edited(rows[i].from, rows[i].to)), rows[i].fault);
}

static void test_load__yaml_faults(void)
{
    static const struct fault_row rows[] = {
        {"", "", "p.yaml:1:1: the document is empty"},
        {"", "# only a comment\n", "p.yaml:1:1: the document is empty"},
        {"", "[]", "p.yaml:1:1: the document must be a map (key: value)"},
        {"", "a: 1\nb: 2\na: 3\n", "p.yaml:3:1: the key \"a\" stands here twice (first value at 1:4)"},
        {"", "a: &x 1\n", "p.yaml:1:4: anchors (&name) are not allowed; write the value out"},
        {"", "a: *x\n", "p.yaml:1:4: aliases (*name) are not allowed; write the value out"},
        {"", "a: !!int 1\n", "p.yaml:1:4: tags (!name) are not allowed; write the value alone"},
        {"", "a: {<<: *x}\n", "p.yaml:1:9: aliases (*name) are not allowed; write the value out"},
        {"", "a: 1\n---\nb: 1\n", "p.yaml:2:1: a second document (---) is not allowed"},
        {"", "a: [1, 2\n", "p.yaml:2:1: flow sequence without a closing bracket"},
        {"", "a: b: c\n", "p.yaml:1:5: invalid nested block mapping on the same line"},
        {"", "? [a]\n: 1\n", "p.yaml:1:3: a key must be a word"},
        {"", "a: \x01\n", "p.yaml:1:1: a control character (0x01) is not allowed"},
        {"", "a: \xff\n", "p.yaml:1:1: the file is not UTF-8"},
        {"", "a: \"\\0\"\n", "p.yaml:1:4: a value holds a NUL character"},
        {"", "[[[[[[[[[[[[[1]]]]]]]]]]]]]", "p.yaml:1:13: nested too deeply"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        CHECK_STR(fault(rows[i].to), rows[i].fault);
}

static void test_load__limits(void)
{
    char *text = malloc(POL_FILE_MAX + 2);
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};
    size_t len = strlen(good);

    CHECK(text != NULL);
    memset(text, '#', POL_FILE_MAX + 1);
    memcpy(text, good, len);
    CHECK_RC(pol_load(&snapshot, "p", text, POL_FILE_MAX, &err), BASE_OK, &err);
    pol_unref(snapshot);
    CHECK_RC(pol_load(&snapshot, "p", text, POL_FILE_MAX + 1, &err), BASE_TOO_LARGE, &err);
    len = 0;
    len += (size_t)sprintf(text, "a: [");
    for (unsigned i = 0; i < YAML_NODES_MAX; i++)
        len += (size_t)sprintf(text + len, "x,");
    len += (size_t)sprintf(text + len, "]");
    CHECK_RC(pol_load(&snapshot, "p", text, len, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, "too many values") != NULL);
    free(text);
    CHECK_RC(pol_load_file(&snapshot, "/nonexistent/p.yaml", &err), BASE_NOT_FOUND, &err);
}

static void test_load__names_end_at_63_characters(void)
{
    char name[POL_NAME_MAX + 8], to[POL_NAME_MAX + 32];

    memset(name, 'n', sizeof(name));
    name[POL_NAME_MAX - 1] = '\0';
    snprintf(to, sizeof(to), "%s: {max", name);
    CHECK_STR(fault(edited("far: {provider: {base_url: https://api.example/v1, api_key_file: /k}, max",
                           "far: {provider: {base_url: https://api.example/v1}, max")),
              "fine");
    snprintf(to, sizeof(to), "%s: {models", name);
    CHECK_STR(fault(edited("employee: {models", to)), "fine");
    name[POL_NAME_MAX - 1] = 'n';
    name[POL_NAME_MAX] = '\0';
    snprintf(to, sizeof(to), "%s: {models", name);
    CHECK_STR(fault(edited("employee: {models", to)),
              "p.yaml:19:3: a role's name is 64 characters long; at most 63");
}

static void hash_of(const char *text, char hash[POL_HASH_HEX])
{
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};

    CHECK_RC(pol_load(&snapshot, "p.yaml", text, strlen(text), &err), BASE_OK, &err);
    memcpy(hash, pol_hash(snapshot), POL_HASH_HEX);
    pol_unref(snapshot);
}

static void test_hash__is_of_the_meaning(void)
{
    char first[POL_HASH_HEX], other[POL_HASH_HEX];

    hash_of(good, first);
    hash_of(edited("version: 1\n", "# a comment\n\nversion:   1 # one\n"), other);
    CHECK_STR(other, first);
    hash_of(edited("{engine: {file: m.gguf, threads: 4}, max_class: secret}",
                   "{max_class: secret, engine: {threads: 4, file: 'm.gguf'}}"),
            other);
    CHECK_STR(other, first);
    hash_of(edited("[TOP SECRET, GEHEIM]", "\n      - GEHEIM\n      - TOP SECRET"), other);
    CHECK_STR(other, first);
    hash_of(edited("threads: 4", "threads: 5"), other);
    CHECK(strcmp(other, first) != 0);
    hash_of(edited("[{backend: far, model: big}, {backend: local, model: demo}]",
                   "[{backend: local, model: demo}, {backend: far, model: big}]"),
            other);
    CHECK(strcmp(other, first) != 0); /* the order of routes means something */
}

static const char *warnings(const char *text)
{
    static char all[2048];
    struct pol_snapshot *snapshot = NULL;
    struct base_err err = {0};

    CHECK_RC(pol_load(&snapshot, "p.yaml", text, strlen(text), &err), BASE_OK, &err);
    all[0] = '\0';
    for (size_t i = 0; i < snapshot->n_warnings; i++) {
        strncat(all, snapshot->warnings[i], sizeof(all) - strlen(all) - 2);
        strcat(all, "\n");
    }
    pol_unref(snapshot);
    return all;
}

static void test_load__warns_of_what_is_useless(void)
{
    CHECK_STR(warnings(good), "");
    CHECK_STR(warnings(edited("{backend: far, model: big}, ", "")),
              "backend \"far\" is in no model's routes\n");
    CHECK_STR(warnings(edited("models: [demo, both]", "models: [both]")),
              "model \"demo\" is granted by no role\n");
    CHECK_STR(warnings(edited("models: [demo, both]", "models: []")),
              "model \"demo\" is granted by no role\nmodel \"both\" is granted by no role\nrole \"employee\" "
              "grants no model\n");
    CHECK_STR(warnings(edited("guards:\n", "guards:\n  spare: {}\n")),
              "guard \"spare\" is used by no role\n");
    CHECK_STR(
        warnings(edited("limits:\n", "limits:\n  spare: {requests_per_minute: 1, tokens_per_minute: 1}\n")),
        "limit \"spare\" is used by no role\n");
    CHECK_STR(
        warnings(edited("max_class: confidential", "max_class: public")),
        "role \"employee\" ends at class public: it cannot send a text without label (class internal)\n");
    CHECK_STR(warnings(edited("[{backend: local}]", "[{backend: local}, {backend: local}]")),
              "model \"demo\" has the same route twice (local)\n");
    CHECK_STR(warnings(edited("{card: mask}", "{card: force_local}")),
              "role \"employee\": a text with card has class secret, above the role's confidential; "
              "force_local never applies\n");
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_load__good_document),
        CASE(test_load__refusals_say_where_and_what),
        CASE(test_load__yaml_faults),
        CASE(test_load__limits),
        CASE(test_load__names_end_at_63_characters),
        CASE(test_hash__is_of_the_meaning),
        CASE(test_load__warns_of_what_is_useless),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}

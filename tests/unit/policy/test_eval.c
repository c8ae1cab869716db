/* The decision: every class against every ceiling, the combination of roles, and the promise that no route is
 * above its ceiling. */
#include "policy/policy.h"

#include "tap.h"

static const char policy[] =
    "version: 1\n"
    "classes: {default: internal, detectors: {card: confidential, email: internal, private_key: secret}}\n"
    "backends:\n"
    "  l_secret: {engine: {file: m}, max_class: secret}\n"
    "  l_public: {engine: {file: m}, max_class: public}\n"
    "  p_internal: {provider: {base_url: https://a.example/v1}, max_class: internal}\n"
    "  p_conf: {provider: {base_url: https://b.example/v1}, max_class: confidential}\n"
    "models:\n"
    "  all: {routes: [{backend: l_public, model: a}, {backend: p_internal, model: b}, {backend: p_conf}, "
    "{backend: l_secret, model: d}]}\n"
    "  far: {routes: [{backend: p_internal}, {backend: p_conf}]}\n"
    "  low: {routes: [{backend: l_public}]}\n"
    "  hidden: {routes: [{backend: l_secret}]}\n"
    "limits:\n"
    "  small: {requests_per_minute: 10, requests_burst: 50, tokens_per_minute: 100}\n"
    "  big: {requests_per_minute: 20, requests_burst: 5, tokens_per_minute: 0, on_store_failure: open}\n"
    "guards:\n"
    "  lax: {input: {card: tag, email: allow}, output: {email: mask}}\n"
    "  tight: {input: {card: force_local, private_key: block, iban: mask}, output: {card: mask}}\n"
    "roles:\n"
    "  r_public: {models: [all], max_class: public, limits: small, guard: lax}\n"
    "  r_internal: {models: [all], max_class: internal, limits: small, guard: lax}\n"
    "  r_conf: {models: [all, far], max_class: confidential, limits: small, guard: lax}\n"
    "  r_secret: {models: [all, far, low], max_class: secret, limits: big, guard: lax}\n"
    "  r_tight: {models: [far, all], max_class: secret, limits: big, guard: tight}\n";

static struct pol_snapshot *snapshot;

static struct pol_snapshot *load(const char *text)
{
    struct pol_snapshot *loaded = NULL;
    struct base_err err = {0};

    CHECK_RC(pol_load(&loaded, "p.yaml", text, strlen(text), &err), BASE_OK, &err);
    return loaded;
}

static struct pol_decision decide(const char *role, const char *model, enum pol_class label)
{
    const struct pol_facts facts = {
        .roles = &role, .n_roles = 1, .model = model, .label_given = true, .label = label};
    struct pol_decision d;

    pol_decide(snapshot, &facts, &d);
    return d;
}

static void test_decide__zeroed_memory_denies(void)
{
    static const struct pol_decision zero;
    static const struct pol_facts nothing;
    struct pol_decision d;

    CHECK_INT(zero.effect, POL_DENY);
    CHECK_INT(zero.n_routes, 0);
    pol_decide(snapshot, &nothing, &d);
    CHECK_INT(d.effect, POL_DENY);
    CHECK_INT(d.deny, POL_DENY_NO_ROLE);
    CHECK_INT(d.cls, POL_INTERNAL); /* nothing said: the default */
    CHECK_STR(d.cls_source, "default");
}

static void test_decide__every_class_against_every_ceiling(void)
{
    static const char *const roles[] = {"r_public", "r_internal", "r_conf", "r_secret"};
    /* routes of "all" that fit a class, as letters: a public, b internal, c confidential, d secret */
    static const char *const fitting[] = {"", "abcd", "bcd", "cd", "d"};

    for (int ceiling = POL_PUBLIC; ceiling <= POL_SECRET; ceiling++)
        for (int cls = POL_CLASS_UNKNOWN; cls <= POL_SECRET + 1; cls++) {
            struct pol_decision d = decide(roles[ceiling - 1], "all", (enum pol_class)cls);

            if (cls == POL_CLASS_UNKNOWN || cls > POL_SECRET) {
                CHECK_INT(d.effect, POL_DENY);
                CHECK_INT(d.deny, POL_DENY_CLASS_UNKNOWN);
            } else if (cls > ceiling) {
                CHECK_INT(d.effect, POL_DENY);
                CHECK_INT(d.deny, POL_DENY_CLASS_TOO_HIGH);
                CHECK_INT(d.n_routes, 0);
            } else {
                CHECK_INT(d.effect, POL_ALLOW);
                CHECK_INT(d.n_routes, strlen(fitting[cls]));
                CHECK_INT(d.cls, cls);
                CHECK_STR(d.cls_source, "label");
                for (size_t i = 0; i < d.n_routes; i++)
                    CHECK_INT(d.routes[i].upstream_model[0], fitting[cls][i] == 'c' ? 'a' : fitting[cls][i]);
            }
        }
}

static void test_decide__refusals_and_their_twins(void)
{
    CHECK_INT(decide("r_secret", "all", POL_SECRET).effect, POL_ALLOW);
    CHECK_INT(decide("nobody", "all", POL_SECRET).deny, POL_DENY_NO_ROLE);
    CHECK_INT(decide("r_secret", "none", POL_SECRET).deny, POL_DENY_MODEL_UNKNOWN);
    CHECK_INT(decide("r_secret", NULL, POL_SECRET).deny, POL_DENY_MODEL_UNKNOWN);
    CHECK_INT(decide("r_secret", "hidden", POL_SECRET).deny, POL_DENY_MODEL_NOT_ALLOWED);
    CHECK_INT(decide("r_public", "low", POL_PUBLIC).deny, POL_DENY_MODEL_NOT_ALLOWED);
    CHECK_INT(decide("r_secret", "low", POL_PUBLIC).effect, POL_ALLOW);
    CHECK_INT(decide("r_secret", "low", POL_INTERNAL).deny, POL_DENY_CLASS_TOO_HIGH); /* no route */
    CHECK_INT(decide("r_secret", "far", POL_CONFIDENTIAL).effect, POL_ALLOW);
    CHECK_INT(decide("r_secret", "far", POL_SECRET).deny, POL_DENY_CLASS_TOO_HIGH);
    CHECK_STR(decide("r_secret", "all", POL_CONFIDENTIAL).reasons[0],
              "route l_public skipped: ceiling public < confidential");
}

static struct pol_decision classify(bool label_given, enum pol_class label, enum pol_class marking,
                                    uint32_t detected)
{
    static const char *const role = "r_secret";
    const struct pol_facts facts = {.roles = &role,
                                    .n_roles = 1,
                                    .model = "all",
                                    .label_given = label_given,
                                    .label = label,
                                    .marking = marking,
                                    .detected = detected};
    struct pol_decision d;

    pol_decide(snapshot, &facts, &d);
    return d;
}

static void check_class(struct pol_decision d, enum pol_class cls, const char *source)
{
    CHECK_STR(pol_class_name(d.cls), pol_class_name(cls));
    CHECK_STR(d.cls_source, source);
}

static void test_decide__the_strictest_source_sets_the_class(void)
{
    const uint32_t card = 1u << POL_DETECT_CARD, email = 1u << POL_DETECT_EMAIL,
                   key = 1u << POL_DETECT_PRIVATE_KEY;

    check_class(classify(false, 0, 0, 0), POL_INTERNAL, "default");
    check_class(classify(true, POL_PUBLIC, 0, 0), POL_PUBLIC, "label");
    check_class(classify(true, POL_PUBLIC, POL_CONFIDENTIAL, 0), POL_CONFIDENTIAL, "marking");
    check_class(classify(true, POL_SECRET, POL_CONFIDENTIAL, card), POL_SECRET, "label");
    check_class(classify(false, 0, POL_PUBLIC, 0), POL_PUBLIC, "marking");
    check_class(classify(true, POL_PUBLIC, 0, card), POL_CONFIDENTIAL, "detector");
    check_class(classify(false, 0, 0, card), POL_CONFIDENTIAL, "detector");
    check_class(classify(false, 0, 0, email), POL_INTERNAL, "default");
    check_class(classify(true, POL_INTERNAL, POL_CONFIDENTIAL, card | key), POL_SECRET, "detector");
    check_class(classify(true, POL_CLASS_UNKNOWN, POL_SECRET, key), POL_CLASS_UNKNOWN, "label");
    check_class(classify(true, POL_PUBLIC, 0, 1u << 30), POL_CLASS_UNKNOWN,
                "detector"); /* a kind of a later version */
    CHECK_INT(classify(true, POL_PUBLIC, 0, 1u << 30).effect, POL_DENY);
    check_class(classify(true, POL_PUBLIC, (enum pol_class)9, 0), POL_CLASS_UNKNOWN, "marking");
}

static struct pol_decision decide_roles(const char *const *roles, size_t n, const char *model,
                                        uint32_t detected)
{
    const struct pol_facts facts = {.roles = roles, .n_roles = n, .model = model, .detected = detected};
    struct pol_decision d;

    pol_decide(snapshot, &facts, &d);
    return d;
}

static void test_decide__several_roles(void)
{
    static const char *const both[] = {"r_conf", "unknown", "r_tight"};
    struct pol_decision d = decide_roles(both, 3, "all", 0);

    CHECK_INT(d.effect, POL_ALLOW);
    CHECK_STR(d.limits.name, "small+big");
    CHECK_INT(d.limits.requests_per_minute, 20); /* the larger */
    CHECK_INT(d.limits.requests_burst, 50);
    CHECK_INT(d.limits.tokens_per_minute, 0); /* 0 is no limit, the largest */
    CHECK_INT(d.limits.fail_mode, POL_FAIL_CLOSED);
    CHECK_STR(d.guard.name, "lax+tight");
    CHECK_INT(d.guard.input[POL_DETECT_CARD], POL_ACTION_FORCE_LOCAL); /* the stricter */
    CHECK_INT(d.guard.input[POL_DETECT_PRIVATE_KEY], POL_ACTION_BLOCK);
    CHECK_INT(d.guard.input[POL_DETECT_IBAN], POL_ACTION_MASK);
    CHECK_INT(d.guard.output[POL_DETECT_CARD], POL_ACTION_MASK);
    CHECK_INT(d.guard.output[POL_DETECT_EMAIL], POL_ACTION_MASK);
    CHECK_INT(d.guard.output[POL_DETECT_IBAN], POL_ACTION_ALLOW);
}

static void test_decide__a_model_and_its_ceiling_come_from_the_same_role(void)
{
    static const char *const roles[] = {"r_public", "r_conf"};
    const struct pol_facts secret = {
        .roles = roles, .n_roles = 2, .model = "all", .label_given = true, .label = POL_SECRET};
    const struct pol_facts conf = {
        .roles = roles, .n_roles = 2, .model = "all", .label_given = true, .label = POL_CONFIDENTIAL};
    static const char *const mixed[] = {"r_tight", "r_conf"}; /* "low" is granted by neither */
    struct pol_decision d;

    pol_decide(snapshot, &secret, &d);
    CHECK_INT(d.deny, POL_DENY_CLASS_TOO_HIGH);
    pol_decide(snapshot, &conf, &d);
    CHECK_INT(d.effect, POL_ALLOW);
    CHECK_INT(decide_roles(mixed, 2, "low", 0).deny, POL_DENY_MODEL_NOT_ALLOWED);
}

static void test_decide__guard_on_input(void)
{
    static const char *const tight[] = {"r_tight"}, *const lax[] = {"r_secret"};
    struct pol_decision d = decide_roles(tight, 1, "all", 1u << POL_DETECT_PRIVATE_KEY);

    CHECK_INT(d.deny, POL_DENY_GUARD_BLOCK);
    CHECK_INT(d.n_routes, 0);
    CHECK_STR(d.reasons[0], "guard tight blocks private_key");
    CHECK_INT(decide_roles(lax, 1, "all", 1u << POL_DETECT_PRIVATE_KEY).effect, POL_ALLOW);
    d = decide_roles(tight, 1, "all", 1u << POL_DETECT_CARD); /* confidential and forced to stay */
    CHECK_INT(d.effect, POL_ALLOW);
    CHECK_INT(d.n_routes, 1);
    CHECK_STR(d.routes[0].backend->name, "l_secret");
    d = decide_roles(lax, 1, "all", 1u << POL_DETECT_CARD);
    CHECK_INT(d.n_routes, 2);
    d = decide_roles(tight, 1, "far", 1u << POL_DETECT_CARD); /* no engine among its routes */
    CHECK_INT(d.deny, POL_DENY_GUARD_BLOCK);
    CHECK_INT(decide_roles(lax, 1, "far", 1u << POL_DETECT_CARD).effect, POL_ALLOW);
}

static void test_limits_for__roles(void)
{
    static const char *const none[] = {"x"}, *const two[] = {"r_public", "r_secret"};
    struct pol_limits limits;

    pol_limits_for(snapshot, none, 1, &limits);
    CHECK_INT(limits.requests_per_minute, 1);
    CHECK_INT(limits.tokens_per_minute, 1);
    CHECK_INT(limits.fail_mode, POL_FAIL_CLOSED);
    pol_limits_for(snapshot, two, 2, &limits);
    CHECK_INT(limits.requests_per_minute, 20);
    CHECK_INT(limits.tokens_per_minute, 0);
}

/* ---- random policies ---- */

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static const char *random_class(uint64_t *state)
{
    return pol_class_name((enum pol_class)(1 + next_random(state) % 4));
}

static void random_policy(uint64_t *state, char *text, size_t max)
{
    static const char *const actions[] = {"allow", "tag", "force_local", "mask", "block"};
    size_t n = (size_t)snprintf(
        text, max, "version: 1\nclasses: {default: %s, detectors: {card: %s, jwt: %s}}\nbackends:\n",
        random_class(state), random_class(state), random_class(state));

    for (int i = 0; i < 5; i++)
        n += (size_t)snprintf(text + n, max - n, "  b%d: {%s, max_class: %s}\n", i,
                              next_random(state) % 2 == 0 ? "engine: {file: m}"
                                                          : "provider: {base_url: https://a/v1}",
                              random_class(state));
    n += (size_t)snprintf(text + n, max - n,
                          "limits: {l: {requests_per_minute: 1, tokens_per_minute: 1}}\nmodels:\n");
    for (int i = 0; i < 4; i++)
        n += (size_t)snprintf(text + n, max - n,
                              "  m%d: {routes: [{backend: b%u}, {backend: b%u}, {backend: b%u}]}\n", i,
                              next_random(state) % 5, next_random(state) % 5, next_random(state) % 5);
    n += (size_t)snprintf(text + n, max - n, "guards:\n");
    for (int i = 0; i < 3; i++)
        n += (size_t)snprintf(text + n, max - n, "  g%d: {input: {card: %s, jwt: %s}}\n", i,
                              actions[next_random(state) % 5], actions[next_random(state) % 5]);
    n += (size_t)snprintf(text + n, max - n, "roles:\n");
    for (int i = 0; i < 4; i++)
        n += (size_t)snprintf(
            text + n, max - n, "  r%d: {models: [m%u, m%u], max_class: %s, limits: l, guard: g%u}\n", i,
            next_random(state) % 4, next_random(state) % 4, random_class(state), next_random(state) % 3);
}

/* The promise in its own words, without the evaluator's. */
static void check_promise(const struct pol_facts *facts, const struct pol_decision *d)
{
    if (d->effect != POL_ALLOW) {
        CHECK_INT(d->n_routes, 0);
        CHECK(d->deny != POL_DENY_UNSPECIFIED);
        return;
    }
    CHECK(d->n_routes > 0 && facts->n_roles > 0);
    CHECK(!facts->label_given ||
          (facts->label >= POL_PUBLIC && facts->label <= POL_SECRET && d->cls >= facts->label));
    CHECK(facts->marking == POL_CLASS_UNKNOWN || d->cls >= facts->marking);
    CHECK(d->cls >= POL_PUBLIC && d->cls <= POL_SECRET);
    for (size_t i = 0; i < d->n_routes; i++) {
        CHECK(d->routes[i].backend->max_class >= d->cls);
        for (int kind = 1; kind < POL_DETECT_COUNT; kind++)
            if ((facts->detected >> kind & 1) != 0) {
                CHECK(d->guard.input[kind] != POL_ACTION_BLOCK);
                CHECK(d->guard.input[kind] != POL_ACTION_FORCE_LOCAL ||
                      d->routes[i].backend->kind == POL_BACKEND_ENGINE);
            }
    }
}

static void test_decide__never_routes_above_a_ceiling(void)
{
    static const char *const names[] = {"r0", "r1", "r2", "r3", "stranger"}, *const models[] = {"m0", "m1",
                                                                                                "m2", "m3",
                                                                                                "m9"};
    uint64_t state = 4711;
    size_t n_allowed = 0, n_all = 0;
    char text[4096];

    for (int p = 0; p < 24; p++) {
        struct pol_snapshot *random;

        random_policy(&state, text, sizeof(text));
        random = load(text);
        for (int i = 0; i < 5000; i++) {
            const char *roles[3];
            struct pol_facts facts = {.roles = roles,
                                      .n_roles = next_random(&state) % 4,
                                      .model = models[next_random(&state) % 5],
                                      .label_given = next_random(&state) % 2 == 0};
            struct pol_decision d;

            for (size_t r = 0; r < facts.n_roles; r++)
                roles[r] = names[next_random(&state) % 5];
            facts.label = (enum pol_class)(next_random(&state) % 6);
            facts.marking = (enum pol_class)(next_random(&state) % 3 == 0 ? next_random(&state) % 6 : 0);
            facts.detected =
                next_random(&state) % 2 == 0 ? 0 : (next_random(&state) & ((1u << POL_DETECT_COUNT) - 2));
            pol_decide(random, &facts, &d);
            check_promise(&facts, &d);
            n_allowed += d.effect == POL_ALLOW;
            n_all++;
        }
        pol_unref(random);
    }
    printf("# %zu decisions under random policies, %zu of them allow\n", n_all, n_allowed);
    CHECK(n_allowed > n_all / 50);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_decide__zeroed_memory_denies),
        CASE(test_decide__every_class_against_every_ceiling),
        CASE(test_decide__refusals_and_their_twins),
        CASE(test_decide__the_strictest_source_sets_the_class),
        CASE(test_decide__several_roles),
        CASE(test_decide__a_model_and_its_ceiling_come_from_the_same_role),
        CASE(test_decide__guard_on_input),
        CASE(test_limits_for__roles),
        CASE(test_decide__never_routes_above_a_ceiling),
    };
    struct base_err err = {0};
    int status;

    if (pol_load(&snapshot, "p.yaml", policy, strlen(policy), &err) != BASE_OK) {
        printf("Bail out! %s\n", err.detail);
        return 1;
    }
    status = tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
    pol_unref(snapshot);
    return status;
}

/* The decision: a pure function of snapshot and facts. See policy.h; the rules in words are in
 * docs/policy.md.
 *
 * Invariants:
 * 1. The decision starts as zeroed memory, which denies; `effect` becomes POL_ALLOW in one place, after every
 * check.
 * 2. A route is added only by add_routes, which compares the class with the backend's ceiling.
 * 3. A class, label or detector that this file does not know is UNKNOWN, which fits nowhere.
 */
#include "policy/snapshot.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- names ---- */

const char *pol_detector_name(enum pol_detector detector)
{
    static const char *const names[POL_DETECT_COUNT] = {
        "none", "card", "iban", "email", "private_key", "aws_key", "github_token", "slack_token", "jwt"};

    return (unsigned)detector < POL_DETECT_COUNT ? names[detector] : names[POL_DETECT_NONE];
}

const char *pol_action_name(enum pol_action action)
{
    static const char *const names[] = {"allow", "tag", "force_local", "mask", "block"};

    return (unsigned)action <= POL_ACTION_BLOCK ? names[action] : names[POL_ACTION_BLOCK];
}

const char *pol_deny_name(enum pol_deny deny)
{
    static const char *const names[] = {"unspecified",       "no_role",       "model_unknown",
                                        "model_not_allowed", "class_unknown", "class_too_high",
                                        "guard_block"};

    return (unsigned)deny <= POL_DENY_GUARD_BLOCK ? names[deny] : names[POL_DENY_UNSPECIFIED];
}

/* ---- reasons ---- */

static void reason(struct pol_decision *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void reason(struct pol_decision *d, const char *fmt, ...)
{
    va_list args;

    if (d->n_reasons == POL_REASONS_MAX)
        return;
    va_start(args, fmt);
    vsnprintf(d->reasons[d->n_reasons++], sizeof(d->reasons[0]), fmt, args);
    va_end(args);
}

static void deny(struct pol_decision *d, enum pol_deny why)
{
    d->effect = POL_DENY;
    d->deny = why;
    d->n_routes = 0;
    memset(d->routes, 0, sizeof(d->routes));
}

/* ---- class ---- */

static bool is_class(enum pol_class cls)
{
    return cls >= POL_PUBLIC && cls <= POL_SECRET;
}

static void raise_class(struct pol_decision *d, enum pol_class cls, const char *source)
{
    if (d->cls_source[0] != '\0' && pol_class_stricter(d->cls, cls) == d->cls)
        return;
    d->cls = cls;
    snprintf(d->cls_source, sizeof(d->cls_source), "%s", source);
}

/* The strictest of label, marking and detectors; the default stands in for label and marking when there is
 * neither. */
static void classify(const struct pol_snapshot *s, const struct pol_facts *facts, struct pol_decision *d)
{
    if (facts->label_given)
        raise_class(d, is_class(facts->label) ? facts->label : POL_CLASS_UNKNOWN, "label");
    if (facts->marking != POL_CLASS_UNKNOWN)
        raise_class(d, is_class(facts->marking) ? facts->marking : POL_CLASS_UNKNOWN, "marking");
    if (!facts->label_given && facts->marking == POL_CLASS_UNKNOWN)
        raise_class(d, s->default_class, "default");
    for (unsigned bit = 0; bit < 32; bit++) {
        if ((facts->detected >> bit & 1) == 0)
            continue;
        if (bit == POL_DETECT_NONE || bit >= POL_DETECT_COUNT)
            raise_class(d, POL_CLASS_UNKNOWN, "detector");
        else
            raise_class(d, s->detector_class[bit], "detector");
    }
}

/* ---- several roles ---- */

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The larger allowance wins; 0 (no limit) is the largest. A burst belongs to its rate. */
static void widen_limits(struct pol_limits *into, const struct pol_limits *other)
{
    if (into->requests_per_minute == 0 || other->requests_per_minute == 0)
        into->requests_per_minute = 0;
    else
        into->requests_per_minute = larger(into->requests_per_minute, other->requests_per_minute);
    into->requests_burst = larger(into->requests_burst, other->requests_burst);
    if (into->tokens_per_minute == 0 || other->tokens_per_minute == 0)
        into->tokens_per_minute = 0;
    else if (other->tokens_per_minute > into->tokens_per_minute)
        into->tokens_per_minute = other->tokens_per_minute;
    if (other->tokens_burst > into->tokens_burst)
        into->tokens_burst = other->tokens_burst;
    if (other->fail_mode == POL_FAIL_CLOSED)
        into->fail_mode = POL_FAIL_CLOSED;
}

static uint64_t smaller_limit(uint64_t a, uint64_t b)
{
    if (a == 0 || b == 0)
        return a == 0 ? b : a;
    return a < b ? a : b;
}

/* `combine: strict`: the smaller allowance; no limit only when nobody sets one. */
static void narrow_limits(struct pol_limits *into, const struct pol_limits *other)
{
    into->requests_per_minute =
        (uint32_t)smaller_limit(into->requests_per_minute, other->requests_per_minute);
    into->requests_burst = (uint32_t)smaller_limit(into->requests_burst, other->requests_burst);
    into->tokens_per_minute = smaller_limit(into->tokens_per_minute, other->tokens_per_minute);
    into->tokens_burst = smaller_limit(into->tokens_burst, other->tokens_burst);
    if (other->fail_mode == POL_FAIL_CLOSED)
        into->fail_mode = POL_FAIL_CLOSED;
}

static void tighten_guard(struct pol_guard *into, const struct pol_guard *other)
{
    for (size_t d = 0; d < POL_DETECT_COUNT; d++) {
        if (other->input[d] > into->input[d])
            into->input[d] = other->input[d];
        if (other->output[d] > into->output[d])
            into->output[d] = other->output[d];
    }
}

/* "a" and "b" make "a+b", as far as a name has room; a name that is there already is not added. */
static void join_name(char into[POL_NAME_MAX], const char *other)
{
    size_t len = strlen(into), n = strlen(other);
    const char *at = strstr(into, other);

    if (at != NULL && (at == into || at[-1] == '+') && (at[n] == '\0' || at[n] == '+'))
        return;
    if (len + 1 + n < POL_NAME_MAX)
        snprintf(into + len, POL_NAME_MAX - len, "+%s", other);
}

void pol_limits_for(const struct pol_snapshot *snapshot, const char *const *roles, size_t n_roles,
                    struct pol_limits *ret_limits)
{
    struct pol_limits limits = {.name = "none",
                                .requests_per_minute = 1,
                                .requests_burst = 1,
                                .tokens_per_minute = 1,
                                .tokens_burst = 1,
                                .fail_mode = POL_FAIL_CLOSED};
    bool first = true;

    for (size_t i = 0; i < n_roles; i++) {
        const struct role_rule *role = snapshot_role(snapshot, roles[i]);

        if (role == NULL)
            continue;
        if (first)
            limits = *role->limits;
        else {
            (snapshot->identity.pub.strict ? narrow_limits : widen_limits)(&limits, role->limits);
            join_name(limits.name, role->limits->name);
        }
        first = false;
    }
    *ret_limits = limits;
}

static bool guard_for(const struct pol_snapshot *s, const struct pol_facts *facts,
                      struct pol_guard *ret_guard)
{
    bool any = false;

    for (size_t i = 0; i < facts->n_roles; i++) {
        const struct role_rule *role = snapshot_role(s, facts->roles[i]);

        if (role == NULL)
            continue;
        if (!any)
            *ret_guard = *role->guard;
        else {
            tighten_guard(ret_guard, role->guard);
            join_name(ret_guard->name, role->guard->name);
        }
        any = true;
    }
    return any;
}

/* ---- model and class ---- */

static const struct model_rule *find_model(const struct pol_snapshot *s, const char *name, size_t *ret_index)
{
    for (size_t i = 0; name != NULL && i < s->n_models; i++)
        if (strcmp(s->models[i].pub.name, name) == 0) {
            *ret_index = i;
            return &s->models[i];
        }
    return NULL;
}

/* The role that denies the model; NULL: none does. */
static const struct role_rule *denying_role(const struct pol_snapshot *s, const struct pol_facts *facts,
                                            size_t model)
{
    for (size_t i = 0; i < facts->n_roles; i++) {
        const struct role_rule *role = snapshot_role(s, facts->roles[i]);

        if (role != NULL && role_denies(role, model))
            return role;
    }
    return NULL;
}

/* The highest ceiling among the roles that grant the model, UNKNOWN when none does; with `combine: strict` the
 * lowest of all the caller's roles. */
static enum pol_class role_ceiling(const struct pol_snapshot *s, const struct pol_facts *facts, size_t model)
{
    enum pol_class highest = POL_CLASS_UNKNOWN, lowest = POL_SECRET;

    for (size_t i = 0; i < facts->n_roles; i++) {
        const struct role_rule *role = snapshot_role(s, facts->roles[i]);

        if (role == NULL)
            continue;
        if (role_grants(role, model) && role->max_class > highest)
            highest = role->max_class;
        if (role->max_class < lowest)
            lowest = role->max_class;
    }
    return s->identity.pub.strict && lowest < highest ? lowest : highest;
}

/* ---- guard ---- */

/* False when the guard blocks; *ret_force_local when some finding keeps the request in the house. */
static bool guard_admits(const struct pol_facts *facts, struct pol_decision *d, bool *ret_force_local)
{
    bool blocked = false;

    *ret_force_local = false;
    for (unsigned bit = 1; bit < POL_DETECT_COUNT; bit++) {
        if ((facts->detected >> bit & 1) == 0)
            continue;
        switch (d->guard.input[bit]) {
        case POL_ACTION_ALLOW:
        case POL_ACTION_TAG:
        case POL_ACTION_MASK: break;
        case POL_ACTION_FORCE_LOCAL: *ret_force_local = true; break;
        case POL_ACTION_BLOCK:
        default:
            blocked = true;
            reason(d, "guard %.40s blocks %s", d->guard.name, pol_detector_name((enum pol_detector)bit));
        }
    }
    return !blocked;
}

/* Adds the routes that fit; returns how many fitted by class, whether or not force_local took them away
 * again. */
static size_t add_routes(const struct model_rule *model, bool force_local, struct pol_decision *d)
{
    size_t fitting = 0;

    for (size_t i = 0; i < model->n_routes; i++) {
        const struct pol_backend *backend = model->routes[i].backend;
        struct pol_route *route = &d->routes[d->n_routes];

        if (!pol_class_fits(d->cls, backend->max_class)) {
            reason(d, "route %.40s skipped: ceiling %s < %s", backend->name,
                   pol_class_name(backend->max_class), pol_class_name(d->cls));
            continue;
        }
        fitting++;
        if (force_local && backend->kind != POL_BACKEND_ENGINE) {
            reason(d, "route %.40s skipped: the guard forces a local model", backend->name);
            continue;
        }
        route->backend = backend;
        memcpy(route->upstream_model, model->routes[i].upstream_model, POL_NAME_MAX);
        d->n_routes++;
    }
    return fitting;
}

void pol_decide(const struct pol_snapshot *snapshot, const struct pol_facts *facts,
                struct pol_decision *ret_decision)
{
    struct pol_decision *d = ret_decision;
    const struct role_rule *denying;
    const struct model_rule *model;
    enum pol_class ceiling;
    size_t index = 0, fitting;
    bool force_local;

    memset(d, 0, sizeof(*d));
    classify(snapshot, facts, d);
    if (!guard_for(snapshot, facts, &d->guard)) {
        deny(d, POL_DENY_NO_ROLE);
        reason(d, "none of the %zu roles is known to the policy", facts->n_roles);
        return;
    }
    pol_limits_for(snapshot, facts->roles, facts->n_roles, &d->limits);
    model = find_model(snapshot, facts->model, &index);
    if (model == NULL) {
        deny(d, POL_DENY_MODEL_UNKNOWN);
        reason(d, "the policy has no such model");
        return;
    }
    denying = denying_role(snapshot, facts, index);
    if (denying != NULL) {
        deny(d, POL_DENY_MODEL_NOT_ALLOWED);
        reason(d, "role %.40s denies model %.40s", denying->name, model->pub.name);
        return;
    }
    ceiling = role_ceiling(snapshot, facts, index);
    if (ceiling == POL_CLASS_UNKNOWN) {
        deny(d, POL_DENY_MODEL_NOT_ALLOWED);
        reason(d, "no role grants model %.60s", model->pub.name);
        return;
    }
    if (!is_class(d->cls)) {
        deny(d, POL_DENY_CLASS_UNKNOWN);
        reason(d, "the class by %s is none that the policy knows", d->cls_source);
        return;
    }
    if (!pol_class_fits(d->cls, ceiling)) {
        deny(d, POL_DENY_CLASS_TOO_HIGH);
        reason(d, "class %s is above the roles' ceiling %s", pol_class_name(d->cls), pol_class_name(ceiling));
        return;
    }
    if (!guard_admits(facts, d, &force_local)) {
        deny(d, POL_DENY_GUARD_BLOCK);
        return;
    }
    fitting = add_routes(model, force_local, d);
    if (d->n_routes == 0) {
        deny(d, fitting > 0 ? POL_DENY_GUARD_BLOCK : POL_DENY_CLASS_TOO_HIGH);
        return;
    }
    d->effect = POL_ALLOW;
}

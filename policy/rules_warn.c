/* Warnings of `policy check`: what a document may say, but hardly means. */
#include "policy/rules.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void rules_add_warning(struct pol_snapshot *snapshot, const char *fmt, ...)
{
    char text[256];
    va_list args;

    if (snapshot->n_warnings == SNAPSHOT_WARNINGS_MAX)
        return;
    if (snapshot->warnings == NULL)
        snapshot->warnings = base_arena_alloc(snapshot->arena, SNAPSHOT_WARNINGS_MAX * sizeof(const char *));
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (snapshot->warnings != NULL)
        snapshot->warnings[snapshot->n_warnings] = base_arena_dup(snapshot->arena, text, strlen(text));
    if (snapshot->warnings != NULL && snapshot->warnings[snapshot->n_warnings] != NULL)
        snapshot->n_warnings++;
}

static void warn_backends(struct pol_snapshot *s)
{
    for (size_t b = 0; b < s->n_backends; b++) {
        bool used = false;

        for (size_t m = 0; m < s->n_models; m++)
            for (size_t r = 0; r < s->models[m].n_routes; r++)
                used = used || s->models[m].routes[r].backend == &s->backends[b];
        if (!used)
            rules_add_warning(s, "backend \"%s\" is in no model's routes", s->backends[b].name);
    }
}

static void warn_models(struct pol_snapshot *s)
{
    for (size_t m = 0; m < s->n_models; m++) {
        const struct model_rule *model = &s->models[m];
        enum pol_class highest = POL_CLASS_UNKNOWN;

        for (size_t r = 0; r < s->n_roles; r++)
            if (role_grants(&s->roles[r], m) && !role_denies(&s->roles[r], m) &&
                s->roles[r].max_class > highest)
                highest = s->roles[r].max_class;
        if (highest == POL_CLASS_UNKNOWN)
            rules_add_warning(s, "model \"%s\" is granted by no role", model->pub.name);
        if (!pol_class_fits(s->default_class, model->pub.max_class))
            rules_add_warning(
                s, "model \"%s\" ends at class %s: a text without label (class %s) never reaches it",
                model->pub.name, pol_class_name(model->pub.max_class), pol_class_name(s->default_class));
        for (size_t r = 0; r < model->n_routes; r++)
            for (size_t before = 0; before < r; before++)
                if (model->routes[before].backend == model->routes[r].backend &&
                    strcmp(model->routes[before].upstream_model, model->routes[r].upstream_model) == 0)
                    rules_add_warning(s, "model \"%s\" has the same route twice (%s)", model->pub.name,
                                      model->routes[r].backend->name);
    }
}

static void warn_unused_profiles(struct pol_snapshot *s)
{
    for (size_t i = 0; i < s->n_limits; i++) {
        bool used = false;

        for (size_t r = 0; r < s->n_roles; r++)
            used = used || s->roles[r].limits == &s->limits[i];
        if (!used)
            rules_add_warning(s, "limit \"%s\" is used by no role", s->limits[i].name);
    }
    for (size_t i = 0; i < s->n_guards; i++) {
        bool used = false;

        for (size_t r = 0; r < s->n_roles; r++)
            used = used || s->roles[r].guard == &s->guards[i];
        if (!used)
            rules_add_warning(s, "guard \"%s\" is used by no role", s->guards[i].name);
    }
}

static void warn_roles(struct pol_snapshot *s)
{
    for (size_t r = 0; r < s->n_roles; r++) {
        const struct role_rule *role = &s->roles[r];
        bool any = false;

        for (size_t m = 0; m < s->n_models; m++)
            any = any || role_grants(role, m) || role_denies(role, m);
        if (!any)
            rules_add_warning(s, "role \"%s\" grants no model", role->name);
        if (!pol_class_fits(s->default_class, role->max_class))
            rules_add_warning(s,
                              "role \"%s\" ends at class %s: it cannot send a text without label (class %s)",
                              role->name, pol_class_name(role->max_class), pol_class_name(s->default_class));
        for (int d = 1; d < POL_DETECT_COUNT; d++)
            if (role->guard->input[d] == POL_ACTION_FORCE_LOCAL &&
                !pol_class_fits(s->detector_class[d], role->max_class))
                rules_add_warning(s,
                                  "role \"%s\": a text with %s has class %s, above the role's %s; "
                                  "force_local never applies",
                                  role->name, pol_detector_name((enum pol_detector)d),
                                  pol_class_name(s->detector_class[d]), pol_class_name(role->max_class));
    }
}

/* ---- identity ---- */

static void warn_oidc(struct pol_snapshot *s, const struct pol_provider *p)
{
    if (strncmp(p->issuer, "http://", 7) == 0)
        rules_add_warning(s, "provider \"%s\": an issuer without https is for tests and demonstrations alone",
                          p->name);
    if (strcmp(p->token_auth, "none") == 0)
        rules_add_warning(
            s, "provider \"%s\": a client without secret; give it one, this program can keep it", p->name);
}

static void warn_saml(struct pol_snapshot *s, const struct pol_provider *p)
{
    if (p->want_signed != POL_SIGNED_RESPONSE)
        rules_add_warning(
            s,
            "provider \"%s\": want_signed %s leaves the response around the assertion unsigned; "
            "sign both and write response",
            p->name, p->want_signed == POL_SIGNED_ASSERTION ? "assertion" : "either");
    if (!p->sign_requests)
        rules_add_warning(s, "provider \"%s\": requests are not signed", p->name);
}

static bool is_mapped(const struct identity_rules *identity, const struct pol_provider *provider)
{
    for (size_t i = 0; i < identity->n_mappings; i++)
        if (identity->mappings[i].provider == NULL || identity->mappings[i].provider == provider)
            return true;
    return false;
}

static void warn_provider(struct pol_snapshot *s, const struct pol_provider *p)
{
    if (p->kind == POL_PROVIDER_OIDC)
        warn_oidc(s, p);
    else
        warn_saml(s, p);
    if (p->clock_skew_s > 120)
        rules_add_warning(s,
                          "provider \"%s\": clock_skew_s %u lets expired tokens in; set the clocks instead",
                          p->name, p->clock_skew_s);
    if (strcmp(p->subject_claim, "email") == 0)
        rules_add_warning(
            s,
            "provider \"%s\": an e-mail address as subject can be given to another person, who then "
            "has the first one's rights",
            p->name);
    if (s->identity.pub.default_role[0] == '\0' && !is_mapped(&s->identity, p))
        rules_add_warning(s, "provider \"%s\": no mapping and no default_role, so nobody comes in by it",
                          p->name);
}

static void warn_identity(struct pol_snapshot *s)
{
    const struct identity_rules *identity = &s->identity;
    bool admin = false;

    for (size_t i = 0; i < identity->n_providers; i++)
        warn_provider(s, &identity->providers[i]);
    for (size_t i = 0; i < identity->n_mappings; i++)
        admin = admin || strcmp(identity->mappings[i].role, "admin") == 0;
    if (strcmp(identity->pub.default_role, "admin") == 0)
        rules_add_warning(
            s, "default_role admin: whoever has an account at a provider administers this gateway");
    else if (identity->n_providers > 0 && !admin && snapshot_role(s, "admin") != NULL)
        rules_add_warning(s, "no mapping gives role \"admin\": nobody who signs in can administer");
}

void rules_warn(struct pol_snapshot *snapshot)
{
    warn_backends(snapshot);
    warn_models(snapshot);
    warn_unused_profiles(snapshot);
    warn_roles(snapshot);
    warn_identity(snapshot);
}

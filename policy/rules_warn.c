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
            if (role_grants(&s->roles[r], m) && s->roles[r].max_class > highest)
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
            any = any || role_grants(role, m);
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

void rules_warn(struct pol_snapshot *snapshot)
{
    warn_backends(snapshot);
    warn_models(snapshot);
    warn_unused_profiles(snapshot);
    warn_roles(snapshot);
}

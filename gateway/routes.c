/* Routes: from a path and method to who answers. The TLS listener's handler.
 *
 *   POST /v1/chat/completions    call.c
 *   GET  /v1/models[/ID]         here: what the caller may use
 *   any  /auth/...               auth_pages.c, local_admin.c, sign_in.c
 *   any  /scim/v2/...            scim.c, when the policy has a scim section
 *   GET  / and /assets/...       the chat page (assets.h)
 */
#include "gateway/app.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/api_error.h"
#include "gateway/assets.h"
#include "gateway/call.h"
#include "gateway/local_admin.h"
#include "gateway/scim.h"
#include "gateway/sign_in.h"
#include "gateway/visit.h"

#include <stdio.h>
#include <string.h>

#define MODELS_PATH     "/v1/models"
#define MODELS_JSON_MAX (1u << 20)

static const char page_csp[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src "
    "'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

static void send_code(struct gw_http *http, enum gw_api_code code)
{
    gw_send_error(http, &(struct gw_api_error){.code = code});
}

static void send_allow(struct gw_http *http, const char *methods)
{
    gw_send_error(http, &(struct gw_api_error){.code = GW_API_METHOD_NOT_ALLOWED, .allow = methods});
}

/* ---- models ---- */

struct models_request {
    struct gw_app *app;
    struct gw_visit visit;
};

static void put_model(struct base_buf *out, const struct pol_model *model, int64_t created_s)
{
    base_buf_append_str(out, "{\"id\":");
    base_buf_append_json(out, model->name, strlen(model->name));
    base_buf_printf(
        out,
        ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"gatehouse\",\"gatehouse\":{\"description\":",
        (long long)created_s);
    base_buf_append_json(out, model->description, strlen(model->description));
    base_buf_printf(out, ",\"max_class\":\"%s\",\"local_only\":%s}}", pol_class_name(model->max_class),
                    model->local_only ? "true" : "false");
}

/* %2F and the like in a model's name; false for a broken escape or a name that is too long. */
static bool percent_decode(const char *in, char *out, size_t size)
{
    size_t n = 0;

    for (; *in != '\0'; in++) {
        size_t got;

        if (n + 1 >= size)
            return false;
        if (*in != '%') {
            out[n++] = *in;
            continue;
        }
        if (in[1] == '\0' || in[2] == '\0' || base_hex_decode(in + 1, 2, &out[n], 1, &got) != BASE_OK ||
            out[n] == '\0')
            return false;
        n++;
        in += 2;
    }
    out[n] = '\0';
    return true;
}

static void answer_models(struct models_request *request, const struct gw_principal *principal)
{
    auto_buf struct base_buf body = BASE_BUF_INIT(MODELS_JSON_MAX);
    struct gw_runtime *runtime = gw_app_runtime(request->app);
    const struct pol_snapshot *policy = gw_runtime_policy(runtime);
    const char *path = gw_http_path(request->visit.http), *roles[GW_ROLES_MAX];
    bool one = strlen(path) > sizeof(MODELS_PATH);
    char wanted[POL_NAME_MAX] = "";
    int64_t created_s = gw_runtime_loaded_us(runtime) / 1000000;
    size_t n = 0;

    for (unsigned i = 0; i < principal->n_roles; i++)
        roles[i] = principal->roles[i];
    if (one && !percent_decode(path + sizeof(MODELS_PATH), wanted, sizeof(wanted)))
        wanted[0] = '\0';
    if (!one)
        base_buf_append_str(&body, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < pol_n_models(policy); i++) {
        const struct pol_model *model = pol_model_at(policy, i);

        if (!pol_model_visible(policy, i, roles, principal->n_roles) ||
            (one && strcmp(model->name, wanted) != 0))
            continue;
        if (n++ > 0)
            base_buf_append_char(&body, ',');
        put_model(&body, model, created_s);
    }
    if (!one)
        base_buf_append_str(&body, "]}");
    gw_runtime_unref(runtime);
    if (one && n == 0)
        gw_send_error(request->visit.http,
                      &(struct gw_api_error){.code = GW_API_MODEL_NOT_FOUND, .param = "model"});
    else
        gw_http_send(request->visit.http, 200, &(struct gw_header){"content-type", "application/json"}, 1,
                     body.data, body.len);
}

static void on_identified(enum gw_auth_result result, const struct gw_principal *principal, void *user)
{
    struct models_request *request = user;

    if (result == GW_AUTH_OK)
        answer_models(request, principal);
    else
        send_code(request->visit.http, gw_auth_api_code(result));
    gw_visit_over(&request->visit);
}

static void models_start(struct gw_app *app, struct gw_http *http)
{
    struct models_request *request = base_zalloc(sizeof(*request));

    request->app = app;
    gw_visit_begin(&request->visit, http, free, request);
    gw_visit_identify(&request->visit, app->auth, on_identified);
}

/* ---- the page ---- */

static bool send_asset(struct gw_http *http, const char *path)
{
    for (size_t i = 0; i < gw_n_assets; i++) {
        const struct gw_asset *asset = &gw_assets[i];
        struct gw_header headers[] = {
            {"content-type", asset->content_type},
            {"content-security-policy", page_csp},
            {"referrer-policy", "no-referrer"},
            {"cross-origin-opener-policy", "same-origin"},
            {"cache-control", "no-cache"},
            {"etag", asset->etag},
            {"permissions-policy", "camera=(), microphone=(), geolocation=()"},
        };
        size_t len = 0;
        const char *have;

        if (strcmp(asset->path, path) != 0)
            continue;
        have = gw_http_header(http, "if-none-match", &len);
        if (have != NULL && len == strlen(asset->etag) && memcmp(have, asset->etag, len) == 0)
            gw_http_send(http, 304, headers, BASE_ARRAY_LEN(headers), NULL, 0);
        else
            gw_http_send(http, 200, headers, BASE_ARRAY_LEN(headers), asset->data, asset->len);
        return true;
    }
    return false;
}

/* ---- dispatch ---- */

void gw_routes_handle(struct gw_http *http, void *user)
{
    struct gw_app *app = user;
    const char *path = gw_http_path(http), *method = gw_http_method(http);
    bool get = strcmp(method, "GET") == 0;

    if (strcmp(path, "/v1/chat/completions") == 0) {
        if (strcmp(method, "POST") == 0)
            gw_call_start(app, http);
        else
            send_allow(http, "POST");
    } else if (strcmp(path, MODELS_PATH) == 0 || strncmp(path, MODELS_PATH "/", sizeof(MODELS_PATH)) == 0) {
        if (get)
            models_start(app, http);
        else
            send_allow(http, "GET");
    } else if (strncmp(path, "/auth/", 6) == 0) {
        if (!gw_auth_handle(app->auth, http) && !gw_local_handle(app->local, http) &&
            !gw_sign_in_handle(app, http))
            send_code(http, GW_API_NOT_FOUND);
    } else if (gw_scim_handle(app->scim, http)) {
        return;
    } else if (get || strcmp(method, "HEAD") == 0) {
        if (!send_asset(http, path))
            send_code(http, GW_API_NOT_FOUND);
    } else if (strcmp(path, "/") == 0 || strncmp(path, "/assets/", 8) == 0) {
        send_allow(http, "GET, HEAD");
    } else {
        send_code(http, GW_API_NOT_FOUND);
    }
}

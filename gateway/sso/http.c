/* HTTP. See http.h. */
#include "gateway/sso/http.h"
#include "gateway/sso/connector.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRUST_STORE     "/etc/ssl/certs/ca-certificates.crt"
#define TRUST_STORE_MAX (8u << 20)
#define CONNECT_MS      4000u
#define HOST_MAX        256u

static char *trust_store; /* the system's, read before the sandbox */
static size_t trust_store_len;

enum base_code sso_http_init(struct base_err *err)
{
    FILE *file;

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
        return base_fail(err, BASE_INTERNAL, 0, "libcurl does not start");
    file = fopen(TRUST_STORE, "re");
    if (file == NULL)
        return BASE_OK; /* then only providers with a ca_file can be reached; the first request says so */
    trust_store = base_alloc(TRUST_STORE_MAX);
    trust_store_len = fread(trust_store, 1, TRUST_STORE_MAX, file);
    fclose(file);
    return BASE_OK;
}

void sso_http_answer_free(struct sso_http_answer *answer)
{
    if (answer->body != NULL)
        base_wipe(answer->body, answer->len); /* may hold tokens */
    free(answer->body);
    *answer = (struct sso_http_answer){0};
}

bool sso_url_ok(const char *url)
{
    char host[HOST_MAX];
    unsigned port;
    size_t len = strlen(url);

    if (len >= SSO_URL_MAX || !sso_url_host(url, host, sizeof(host), &port) ||
        strpbrk(url, "#\\ \t\r\n") != NULL)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)url[i] <= 0x20 || (unsigned char)url[i] >= 0x7f)
            return false;
    return strncmp(url, "https://", 8) == 0 || sso_host_is_loopback(host);
}

/* ---- one request ---- */

struct exchange {
    const struct sso_provider *provider;
    char host[HOST_MAX];
    unsigned port;
    uint64_t until_ms;
    struct base_buf body;
    bool too_large;
    enum base_code connect_rc;
    struct base_err connect_err;
};

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct exchange *exchange = user;
    uint64_t now_ms = base_mono_ms();
    unsigned left_ms = exchange->until_ms > now_ms ? (unsigned)(exchange->until_ms - now_ms) : 1;
    int fd = -1;

    (void)purpose;
    (void)address; /* a stand-in: the connector resolves the name */
    exchange->connect_rc =
        sso_connect(exchange->provider, exchange->host, exchange->port,
                    left_ms < CONNECT_MS ? left_ms : CONNECT_MS, &fd, &exchange->connect_err);
    return exchange->connect_rc == BASE_OK ? fd : CURL_SOCKET_BAD;
}

static int already_connected(void *user, curl_socket_t fd, curlsocktype purpose)
{
    (void)user;
    (void)fd;
    (void)purpose;
    return CURL_SOCKOPT_ALREADY_CONNECTED;
}

static size_t take_body(char *bytes, size_t size, size_t n, void *user)
{
    struct exchange *exchange = user;

    if (base_buf_append(&exchange->body, bytes, size * n) == BASE_OK)
        return size * n;
    exchange->too_large = true;
    return 0;
}

static void read_content_type(CURL *curl, struct sso_http_answer *answer)
{
    char *type = NULL;
    size_t len;

    curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
    if (type == NULL)
        return;
    len = strcspn(type, "; \t");
    if (len >= sizeof(answer->content_type))
        return;
    for (size_t i = 0; i < len; i++)
        answer->content_type[i] = (char)(type[i] >= 'A' && type[i] <= 'Z' ? type[i] + 32 : type[i]);
    answer->content_type[len] = '\0';
}

static void read_max_age(CURL *curl, struct sso_http_answer *answer)
{
    struct curl_header *header;
    const char *at;

    answer->max_age_s = -1;
    if (curl_easy_header(curl, "cache-control", 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return;
    at = strstr(header->value, "max-age=");
    if (at != NULL)
        answer->max_age_s = strtol(at + 8, NULL, 10);
}

/* One handle per thread: it keeps connections, and threads belong to one provider. */
static __thread CURL *thread_curl;

void sso_http_thread_end(void)
{
    curl_easy_cleanup(thread_curl);
    thread_curl = NULL;
}

static void set_trust(CURL *curl, const struct sso_provider *provider)
{
    const char *pem = sso_text(provider->config, "ca_pem");
    struct curl_blob blob = {.flags = CURL_BLOB_NOCOPY};

    blob.data = pem != NULL ? (void *)pem : trust_store;
    blob.len = pem != NULL ? strlen(pem) : trust_store_len;
    curl_easy_setopt(curl, CURLOPT_CAINFO, NULL);
    curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
    curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &blob);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
}

static enum base_code result(const struct exchange *exchange, CURLcode code, struct base_err *err)
{
    if (code == CURLE_OK)
        return BASE_OK;
    if (exchange->too_large)
        return base_fail(err, BASE_TOO_LARGE, 0, "%s answers with more than %u bytes", exchange->host,
                         SSO_ANSWER_MAX);
    if (exchange->connect_rc != BASE_OK) {
        if (err != NULL)
            *err = exchange->connect_err;
        return exchange->connect_rc;
    }
    if (code == CURLE_OPERATION_TIMEDOUT)
        return base_fail(err, BASE_TIMEOUT, 0, "%s did not answer in time", exchange->host);
    return base_fail(err, BASE_UNAVAILABLE, 0, "%s: %s", exchange->host, curl_easy_strerror(code));
}

static struct curl_slist *headers_of(const char *accept, const char *authorization)
{
    struct curl_slist *headers = NULL;
    char line[256];
    size_t len = authorization != NULL ? strlen(authorization) : 0;

    snprintf(line, sizeof(line), "Accept: %s", accept);
    headers = curl_slist_append(headers, line);
    headers = curl_slist_append(headers, "Expect:");
    if (authorization != NULL) {
        char *whole = base_alloc(len + 17);

        sprintf(whole, "Authorization: %s", authorization);
        headers = curl_slist_append(headers, whole);
        base_wipe(whole, len + 16);
        free(whole);
    }
    return headers;
}

static void set_request(CURL *curl, struct exchange *exchange, const char *url, const char *form)
{
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_IPRESOLVE, (long)CURL_IPRESOLVE_WHATEVER);
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "gatehouse");
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, exchange);
    curl_easy_setopt(curl, CURLOPT_SOCKOPTFUNCTION, already_connected);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, exchange);
    if (form != NULL) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(form));
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, form);
    }
}

/* libcurl wants an address before it asks for a socket: any does. */
static struct curl_slist *stand_in(const struct exchange *exchange)
{
    char line[HOST_MAX + 32];

    snprintf(line, sizeof(line), "%s:%u:127.0.0.1", exchange->host, exchange->port);
    return curl_slist_append(NULL, line);
}

static void note(struct sso_ctx *ctx, struct sso_provider *provider, const char *kind, enum base_code rc,
                 long status)
{
    const char *result = rc == BASE_TIMEOUT               ? "timeout"
                         : rc != BASE_OK || status >= 500 ? "error"
                         : status >= 200 && status < 300  ? "ok"
                                                          : "refused";

    atomic_fetch_add(&provider->fetches, 1);
    if (rc != BASE_OK || status >= 500)
        atomic_fetch_add(&provider->fetch_failures, 1);
    if (ctx->n_asked < SSO_ASKED_MAX)
        ctx->asked[ctx->n_asked++] = (struct sso_asked){provider, kind, result};
}

enum base_code sso_http(struct sso_ctx *ctx, struct sso_provider *provider, const char *kind, const char *url,
                        const char *accept, const char *authorization, const char *form,
                        struct sso_http_answer *ret_answer, struct base_err *err)
{
    struct exchange exchange = {.provider = provider, .body = BASE_BUF_INIT(SSO_ANSWER_MAX)};
    struct sso_http_answer answer = {0};
    struct curl_slist *headers, *resolve;
    uint64_t now_ms = base_mono_ms(), left_ms = ctx->deadline_ms > now_ms ? ctx->deadline_ms - now_ms : 0;
    enum base_code rc;
    CURL *curl;

    if (!sso_url_ok(url) || !sso_url_host(url, exchange.host, sizeof(exchange.host), &exchange.port))
        return base_fail(err, BASE_DENIED, 0, "an address that is not https");
    if (left_ms == 0)
        return base_fail(err, BASE_TIMEOUT, 0, "no time is left to ask %s", exchange.host);
    if (left_ms > SSO_HTTP_MS)
        left_ms = SSO_HTTP_MS;
    exchange.until_ms = now_ms + left_ms;
    if (thread_curl == NULL)
        thread_curl = curl_easy_init();
    curl = thread_curl;
    if (curl == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "libcurl");
    curl_easy_reset(curl); /* keeps connections */
    headers = headers_of(accept, authorization);
    resolve = stand_in(&exchange);
    set_request(curl, &exchange, url, form);
    set_trust(curl, provider);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)left_ms);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_RESOLVE, resolve);
    rc = result(&exchange, curl_easy_perform(curl), err);
    if (rc == BASE_OK) {
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
        read_content_type(curl, &answer);
        read_max_age(curl, &answer);
        answer.len = exchange.body.len;
        answer.body = base_buf_take(&exchange.body);
        *ret_answer = answer;
    }
    note(ctx, provider, kind, rc, answer.status);
    curl_slist_free_all(headers);
    curl_slist_free_all(resolve);
    base_buf_free(&exchange.body);
    return rc;
}

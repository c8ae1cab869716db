/* HTTP client: libcurl's multi_socket interface on a gw_loop. See http_client.h.
 *
 * Invariants:
 *  1. A gw_http_request lives from start until its on_done has run or it was cancelled.
 *  2. Callbacks never run inside gw_http_request_start: libcurl works only from socket and timer events.
 *  3. A request that its own callback cancels is marked and freed by the driver after libcurl has let go of it.
 */
#include "gateway/http_client.h"

#include "base/mem.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Connections kept open for reuse, per loop. Left alone, libcurl keeps four for each request that is running just then, and so closes
 * connections to an HTTP/1.1 provider whenever few run: every sixth request paid for a new handshake. */
#define KEPT_CONNECTIONS_MAX 256L

struct gw_http_client {
    struct gw_loop *loop;
    CURLM *multi;
    struct gw_timer *timer;
    unsigned driving; /* depth of drive(): requests are not freed under libcurl's feet */
    struct gw_http_request *requests;
    struct socket_watch *watches;
};

struct socket_watch {
    struct gw_http_client *client;
    curl_socket_t fd;
    struct gw_watch *watch;
    struct socket_watch *next, **prev;
};

struct gw_http_request {
    struct gw_http_client *client;
    struct gw_http_request *next, **prev;
    struct gw_http_request_options options;
    CURL *easy;
    struct curl_slist *headers;
    char *body;
    struct gw_timer *deadline; /* until the first byte, then between bytes */
    enum base_code stop_rc;    /* why on_data or a deadline ended it */
    unsigned retry_after_s;
    bool got_byte, cancelled;
    char curl_error[CURL_ERROR_SIZE];
};

static void drive(struct gw_http_client *client, curl_socket_t fd, int events);

/* ---- libcurl's sockets and timer ---- */

static void on_socket(void *user, int events)
{
    struct socket_watch *sw = user;
    int mask = (events & GW_IO_READ ? CURL_CSELECT_IN : 0) | (events & GW_IO_WRITE ? CURL_CSELECT_OUT : 0);

    drive(sw->client, sw->fd, mask); /* may free sw */
}

static void watch_remove(struct socket_watch *sw)
{
    if (sw == NULL)
        return;
    *sw->prev = sw->next;
    if (sw->next != NULL)
        sw->next->prev = sw->prev;
    gw_watch_free(sw->watch);
    free(sw);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user)
{
    struct gw_http_client *client = user;
    struct socket_watch *sw = socket_user;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        watch_remove(sw);
        return 0;
    }
    if (sw == NULL) {
        sw = base_zalloc(sizeof(*sw));
        sw->client = client;
        sw->fd = fd;
        sw->watch = gw_watch_new(client->loop, fd, on_socket, sw);
        sw->next = client->watches;
        sw->prev = &client->watches;
        if (sw->next != NULL)
            sw->next->prev = &sw->next;
        client->watches = sw;
        curl_multi_assign(client->multi, fd, sw);
    }
    gw_watch_set(sw->watch,
                 (what & CURL_POLL_IN ? GW_IO_READ : 0) | (what & CURL_POLL_OUT ? GW_IO_WRITE : 0));
    return 0;
}

static void on_timer(void *user)
{
    struct gw_http_client *client = user;

    client->timer = NULL;
    drive(client, CURL_SOCKET_TIMEOUT, 0);
}

static int on_curl_timer(CURLM *multi, long ms, void *user)
{
    struct gw_http_client *client = user;

    (void)multi;
    gw_timer_stop(client->timer);
    client->timer = ms < 0 ? NULL : gw_timer_start(client->loop, (uint64_t)ms, on_timer, client);
    return 0;
}

/* ---- one request ---- */

static void request_free(struct gw_http_request *request)
{
    *request->prev = request->next;
    if (request->next != NULL)
        request->next->prev = request->prev;
    gw_timer_stop(request->deadline);
    curl_multi_remove_handle(request->client->multi, request->easy);
    curl_easy_cleanup(request->easy);
    curl_slist_free_all(request->headers);
    free(request->body);
    free(request);
}

static void on_deadline(void *user);

static void arm_deadline(struct gw_http_request *request)
{
    unsigned ms =
        request->got_byte ? request->options.idle_timeout_ms : request->options.first_byte_timeout_ms;

    gw_timer_stop(request->deadline);
    request->deadline = gw_timer_start(request->client->loop, ms, on_deadline, request);
}

static size_t on_body(char *bytes, size_t size, size_t n, void *user)
{
    struct gw_http_request *request = user;
    long status = 0;

    n *= size;
    if (request->cancelled || request->stop_rc != BASE_OK)
        return 0;
    curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
        return n; /* a refusal's text is the provider's own: dropped */
    request->got_byte = true;
    arm_deadline(request);
    request->stop_rc = request->options.on_data(bytes, n, request->options.user);
    return request->stop_rc == BASE_OK && !request->cancelled ? n : 0;
}

static size_t on_header(char *bytes, size_t size, size_t n, void *user)
{
    static const char name[] = "retry-after:";
    struct gw_http_request *request = user;

    n *= size;
    if (n > sizeof(name) && strncasecmp(bytes, name, sizeof(name) - 1) == 0) {
        char text[16] = "";
        size_t len = n - (sizeof(name) - 1);

        memcpy(text, bytes + sizeof(name) - 1, len < sizeof(text) - 1 ? len : sizeof(text) - 1);
        request->retry_after_s = (unsigned)strtoul(text, NULL, 10);
        if (request->retry_after_s > 3600)
            request->retry_after_s = 3600;
    }
    return n;
}

static enum base_code code_of(const struct gw_http_request *request, CURLcode curl)
{
    if (request->stop_rc != BASE_OK)
        return request->stop_rc;
    switch (curl) {
    case CURLE_OK: return BASE_OK;
    case CURLE_OPERATION_TIMEDOUT: return BASE_TIMEOUT;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE: return BASE_UNAVAILABLE;
    default: return BASE_IO;
    }
}

/* Ends a request and tells its owner; the request is gone after. */
static void finish(struct gw_http_request *request, CURLcode curl)
{
    enum base_code rc = code_of(request, curl);
    struct base_err err = {0};
    struct gw_http_request_options options = request->options;
    bool cancelled = request->cancelled;
    unsigned retry_after_s = request->retry_after_s;
    long status = 0;

    curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
    if (rc != BASE_OK)
        base_fail(&err, rc, 0, "%s",
                  request->curl_error[0] != '\0' ? request->curl_error : curl_easy_strerror(curl));
    request_free(request);
    if (!cancelled)
        options.on_done(rc, (int)status, retry_after_s, &err, options.user);
}

static void on_deadline(void *user)
{
    struct gw_http_request *request = user;

    request->deadline = NULL;
    request->stop_rc = BASE_TIMEOUT;
    snprintf(request->curl_error, sizeof(request->curl_error), "%s",
             request->got_byte ? "no byte within the idle time-out" : "no first byte in time");
    finish(request, CURLE_OPERATION_TIMEDOUT);
}

static void free_cancelled(struct gw_http_client *client)
{
    struct gw_http_request *request = client->requests;

    while (request != NULL) {
        struct gw_http_request *next = request->next;

        if (request->cancelled)
            request_free(request);
        request = next;
    }
}

static void drive(struct gw_http_client *client, curl_socket_t fd, int events)
{
    CURLMsg *message;
    int running, left;

    client->driving++;
    curl_multi_socket_action(client->multi, fd, events, &running);
    client->driving--;
    while (client->driving == 0 && (message = curl_multi_info_read(client->multi, &left)) != NULL) {
        struct gw_http_request *request = NULL;

        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode result = message->data.result;

        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&request);
        finish(request, result);
    }
    if (client->driving == 0)
        free_cancelled(client);
}

static void add_header(struct gw_http_request *request, const char *name, const char *value)
{
    char line[4608];

    snprintf(line, sizeof(line), "%s: %s", name, value);
    request->headers = curl_slist_append(request->headers, line);
    base_wipe(line, sizeof(line));
}

static void add_bearer(struct gw_http_request *request, const struct base_secret *bearer)
{
    char value[4200];
    size_t n = base_secret_len(bearer);

    if (n > 4096)
        n = 4096;
    memcpy(value, "Bearer ", 7);
    memcpy(value + 7, base_secret_bytes(bearer), n);
    value[7 + n] = '\0';
    add_header(request, "authorization", value);
    base_wipe(value, sizeof(value));
}

static void set_options(struct gw_http_request *request)
{
    const struct gw_http_request_options *options = &request->options;
    CURL *easy = request->easy;

    curl_easy_setopt(easy, CURLOPT_URL, options->url);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (char *)request);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)options->body_len);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->curl_error);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(
        easy, CURLOPT_QUICK_EXIT,
        1L); /* a request that ends leaves its resolver thread behind: joining it would hold the loop */
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (options->ca_file != NULL) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, options->ca_file);
        curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    }
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)options->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)options->total_timeout_ms);
}

enum base_code gw_http_request_start(struct gw_http_client *client,
                                     const struct gw_http_request_options *options,
                                     struct gw_http_request **ret_request, struct base_err *err)
{
    struct gw_http_request *request = base_zalloc(sizeof(*request));
    struct gw_http_request_options *own = &request->options;

    request->client = client;
    request->easy = curl_easy_init();
    if (request->easy == NULL) {
        free(request);
        return base_fail(err, BASE_UNAVAILABLE, 0, "no memory for a provider request");
    }
    *own = *options;
    own->connect_timeout_ms = own->connect_timeout_ms > 0 ? own->connect_timeout_ms : 5000;
    own->first_byte_timeout_ms = own->first_byte_timeout_ms > 0 ? own->first_byte_timeout_ms : 60000;
    own->idle_timeout_ms = own->idle_timeout_ms > 0 ? own->idle_timeout_ms : 60000;
    own->total_timeout_ms = own->total_timeout_ms > 0 ? own->total_timeout_ms : 600000;
    request->body = base_memdup0(options->body, options->body_len);
    add_header(request, "content-type", "application/json");
    add_header(request, "accept", options->accept);
    add_header(request, "expect", ""); /* no 100-continue round trip */
    if (options->bearer != NULL)
        add_bearer(request, options->bearer);
    set_options(request);
    own->url = own->body = own->ca_file = own->accept =
        NULL; /* borrowed for this call alone; libcurl has its copies */
    own->bearer = NULL;
    request->next = client->requests;
    request->prev = &client->requests;
    if (request->next != NULL)
        request->next->prev = &request->next;
    client->requests = request;
    arm_deadline(request);
    curl_multi_add_handle(client->multi, request->easy);
    *ret_request = request;
    return BASE_OK;
}

void gw_http_request_cancel(struct gw_http_request *request)
{
    if (request == NULL)
        return;
    if (request->client->driving > 0) {
        request->cancelled =
            true; /* inside a callback of libcurl: drive() frees it when libcurl has returned */
        return;
    }
    request_free(request);
}

struct gw_http_client *gw_http_client_new(struct gw_loop *loop)
{
    struct gw_http_client *client = base_zalloc(sizeof(*client));

    client->loop = loop;
    client->multi = curl_multi_init();
    if (client->multi == NULL)
        abort();
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, KEPT_CONNECTIONS_MAX);
    curl_multi_setopt(client->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    return client;
}

void gw_http_client_free(struct gw_http_client *client)
{
    if (client == NULL)
        return;
    while (client->requests != NULL)
        request_free(client->requests);
    gw_timer_stop(client->timer);
    client->timer = NULL;
    curl_multi_cleanup(client->multi); /* closes pooled connections: their watches go with them */
    while (client->watches != NULL)
        watch_remove(client->watches);
    gw_timer_stop(client->timer);
    free(client);
}

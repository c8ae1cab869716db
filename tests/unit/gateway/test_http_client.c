/* HTTP client: what a resolver that hangs may not do. (What providers do is tested end to end: integration/test_call.py.) */
#include "gateway/http_client.h"
#include "server_fixture.h"

#include <netdb.h>

#define RESOLVE_MS 1500u

/* Takes the C library's place for libcurl's resolver thread: a name server that does not answer in time. */
static atomic_uint resolving;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
    (void)node;
    (void)service;
    (void)hints;
    (void)ret;
    atomic_fetch_add(&resolving, 1);
    usleep(RESOLVE_MS * 1000);
    atomic_fetch_add(&resolving, 1);
    return EAI_AGAIN;
}

static struct gw_http_client *client;
static struct gw_http_request *request;
static atomic_uint steps, done_code;
static uint64_t end_us; /* how long the loop was held when the request ended */

static void no_request(struct gw_http *http, void *user)
{
    gw_http_send(http, 404, NULL, 0, NULL, 0);
}

static enum base_code on_data(const char *bytes, size_t n, void *user)
{
    return BASE_OK;
}

static void on_done(enum base_code rc, int status, unsigned retry_after_s, const struct base_err *err,
                    void *user)
{
    atomic_store(&done_code, rc);
    atomic_fetch_add(&steps, 1);
}

static void start(void *arg)
{
    struct base_err err;
    const struct gw_http_request_options options = {.url = "https://name.invalid/v1",
                                                    .body = "{}",
                                                    .body_len = 2,
                                                    .accept = "text/event-stream",
                                                    .connect_timeout_ms = 100,
                                                    .on_data = on_data,
                                                    .on_done = on_done};

    client = gw_http_client_new(arg);
    CHECK_RC(gw_http_request_start(client, &options, &request, &err), BASE_OK, &err);
    atomic_fetch_add(&steps, 1);
}

static void cancel(void *arg)
{
    uint64_t start_us = base_mono_us();

    gw_http_request_cancel(request);
    end_us = base_mono_us() - start_us;
    atomic_fetch_add(&steps, 1);
}

static void nothing(void *arg)
{
    atomic_fetch_add(&steps, 1);
}

static void end(void *arg)
{
    gw_http_client_free(client);
    atomic_fetch_add(&steps, 1);
}

static void run(struct gw_loop *loop, gw_task_fn *fn)
{
    unsigned before = atomic_load(&steps);

    gw_loop_post(loop, fn, loop);
    CHECK(wait_for(&steps, before + 1));
}

static void test_request_cancel__while_its_name_is_looked_up(void)
{
    struct fixture fx;

    fixture_start(&fx, no_request, NULL, NULL, 1);
    run(gw_server_loop(fx.server, 0), start);
    CHECK(wait_for(&resolving, 1));
    run(gw_server_loop(fx.server, 0), cancel);
    CHECK(end_us < RESOLVE_MS * 1000 / 3);
    CHECK(wait_for(&resolving, 2)); /* the resolver's thread ends by itself */
    run(gw_server_loop(fx.server, 0), end);
    fixture_stop(&fx);
}

static void test_request__connect_timeout_while_its_name_is_looked_up(void)
{
    struct fixture fx;
    uint64_t start_us = base_mono_us();

    atomic_store(&resolving, 0);
    atomic_store(&done_code, BASE_OK);
    fixture_start(&fx, no_request, NULL, NULL, 1);
    run(gw_server_loop(fx.server, 0), start);
    CHECK(wait_for(&steps, atomic_load(&steps) + 1)); /* on_done */
    CHECK_INT(atomic_load(&done_code), BASE_TIMEOUT);
    run(gw_server_loop(fx.server, 0), nothing);
    CHECK(base_mono_us() - start_us < RESOLVE_MS * 1000 / 2);
    CHECK(wait_for(&resolving, 2));
    run(gw_server_loop(fx.server, 0), end);
    fixture_stop(&fx);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_request_cancel__while_its_name_is_looked_up),
        CASE(test_request__connect_timeout_while_its_name_is_looked_up),
    };
    int rc;

    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    fixture_remove();
    return rc;
}

/* What the tests of loop and server share: a private server, certificates made on the spot, small blocking
 * clients. */
#ifndef TESTS_SERVER_FIXTURE_H
#define TESTS_SERVER_FIXTURE_H

#include "gateway/server.h"

#include "base/clock.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <tap.h>
#include <unistd.h>

#define WAIT_MS 5000u

static char fixture_dir[64];

__attribute__((unused)) static const char *fixture_path(const char *name)
{
    static char paths[8][128];
    static unsigned turn;
    char *path = paths[turn++ % 8];

    if (fixture_dir[0] == '\0') {
        snprintf(fixture_dir, sizeof(fixture_dir), "/tmp/gh-server-XXXXXX");
        if (mkdtemp(fixture_dir) == NULL)
            abort();
    }
    snprintf(path, sizeof(paths[0]), "%s/%s", fixture_dir, name);
    return path;
}

__attribute__((unused)) static void fixture_remove(void)
{
    static const char *const names[] = {"cert.pem", "key.pem",   "cert2.pem", "key2.pem",
                                        "old.pem",  "young.pem", "open.pem"};

    if (fixture_dir[0] == '\0')
        return;
    for (size_t i = 0; i < BASE_ARRAY_LEN(names); i++)
        unlink(fixture_path(names[i]));
    rmdir(fixture_dir);
}

/* A self-signed certificate for 127.0.0.1, valid from `from_s` to `to_s` relative to now. key: NULL makes a
 * new one. */
__attribute__((unused)) static void make_cert(const char *cert_name, const char *key_name, const char *cn,
                                              long from_s, long to_s)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_NAME *name = X509_get_subject_name(cert);
    FILE *f;

    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), from_s);
    X509_gmtime_adj(X509_getm_notAfter(cert), to_s);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
    X509_set_issuer_name(cert, name);
    X509_set_pubkey(cert, key);
    X509_sign(cert, key, EVP_sha256());
    f = fopen(fixture_path(cert_name), "w");
    PEM_write_X509(f, cert);
    fclose(f);
    if (key_name != NULL) {
        f = fopen(fixture_path(key_name), "w");
        PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
        fclose(f);
        chmod(fixture_path(key_name), 0600);
    }
    X509_free(cert);
    EVP_PKEY_free(key);
}

/* Listener 0 is TLS, listener 1 is plain. */
struct fixture {
    struct gw_server *server;
    uint16_t tls_port, plain_port;
};

__attribute__((unused)) static void fixture_start(struct fixture *fx, gw_handler_fn *handler, void *user,
                                                  const struct gw_server_limits *limits, unsigned n_threads)
{
    struct gw_listener_options listeners[2] = {
        {.address = "127.0.0.1", .tls = true, .handler = handler, .user = user},
        {.address = "127.0.0.1", .handler = handler, .user = user}};
    struct gw_server_options options = {.n_threads = n_threads,
                                        .http2 = true,
                                        .cert_file = fixture_path("cert.pem"),
                                        .key_file = fixture_path("key.pem"),
                                        .limits = limits != NULL ? *limits : GW_SERVER_LIMITS_DEFAULT,
                                        .listeners = listeners,
                                        .n_listeners = 2};
    struct base_err err = {0};

    if (access(options.cert_file, R_OK) != 0)
        make_cert("cert.pem", "key.pem", "first", -60, 86400);
    memset(fx, 0, sizeof(*fx));
    CHECK_RC(gw_server_start(&fx->server, &options, &err), BASE_OK, &err);
    fx->tls_port = gw_server_port(fx->server, 0);
    fx->plain_port = gw_server_port(fx->server, 1);
}

__attribute__((unused)) static void fixture_stop(struct fixture *fx)
{
    gw_server_drain(fx->server, 2000);
    gw_server_free(fx->server);
    fx->server = NULL;
}

/* Waits until *value reaches `least`; false after WAIT_MS. */
__attribute__((unused)) static bool wait_for(atomic_uint *value, unsigned least)
{
    for (unsigned i = 0; i < WAIT_MS; i++) {
        if (atomic_load(value) >= least)
            return true;
        usleep(1000);
    }
    return false;
}

/* ---- clients ---- */

__attribute__((unused)) static int tcp_connect(uint16_t port)
{
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval timeout = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (connect(fd, (struct sockaddr *)&in, sizeof(in)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends a text, reads to the end (or max): returns what came, NUL-terminated, and 0 or the errno of the end.
 */
__attribute__((unused)) static int raw_exchange(uint16_t port, const char *request, char *out, size_t max)
{
    int fd = tcp_connect(port), error = 0;
    size_t n = 0;
    ssize_t got;

    out[0] = '\0';
    if (fd < 0)
        return errno;
    if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
        error = errno;
    while (n + 1 < max && (got = recv(fd, out + n, max - 1 - n, 0)) != 0) {
        if (got < 0) {
            error = errno;
            break;
        }
        n += (size_t)got;
    }
    out[n] = '\0';
    close(fd);
    return error;
}

struct tls_client {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
};

__attribute__((unused)) static bool tls_open(struct tls_client *tc, uint16_t port, const char *alpn)
{
    unsigned char wire[32];
    size_t len = strlen(alpn);

    wire[0] = (unsigned char)len;
    memcpy(wire + 1, alpn, len);
    tc->fd = tcp_connect(port);
    tc->ctx = SSL_CTX_new(TLS_client_method());
    tc->ssl = SSL_new(tc->ctx);
    SSL_set_alpn_protos(tc->ssl, wire, (unsigned)len + 1);
    SSL_set_fd(tc->ssl, tc->fd);
    return tc->fd >= 0 && SSL_connect(tc->ssl) == 1;
}

__attribute__((unused)) static void tls_close(struct tls_client *tc)
{
    SSL_free(tc->ssl);
    SSL_CTX_free(tc->ctx);
    if (tc->fd >= 0)
        close(tc->fd);
}

/* The common name of the certificate that the server shows now. */
__attribute__((unused)) static void server_name_now(uint16_t port, char out[64])
{
    struct tls_client tc;
    X509 *cert = NULL;

    snprintf(out, 64, "none");
    if (tls_open(&tc, port, "http/1.1"))
        cert = SSL_get1_peer_certificate(tc.ssl);
    if (cert != NULL)
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, out, 64);
    X509_free(cert);
    tls_close(&tc);
}

struct answer {
    CURLcode rc;
    long status, version;
    size_t body_len;
    uint64_t body_sum; /* FNV-1a of the body */
    char body[4096], head[4096];
    size_t head_len;
};

__attribute__((unused)) static size_t answer_body(char *p, size_t size, size_t n, void *user)
{
    struct answer *a = user;

    for (size_t i = 0; i < size * n; i++) {
        a->body_sum = (a->body_sum ^ (unsigned char)p[i]) * 1099511628211u;
        if (a->body_len + i + 1 < sizeof(a->body))
            a->body[a->body_len + i] = p[i];
    }
    a->body_len += size * n;
    return size * n;
}

__attribute__((unused)) static size_t answer_head(char *p, size_t size, size_t n, void *user)
{
    struct answer *a = user;

    if (a->head_len + size * n < sizeof(a->head) - 1) {
        memcpy(a->head + a->head_len, p, size * n);
        a->head_len += size * n;
    }
    return size * n;
}

enum proto { PLAIN_H1, TLS_H1, TLS_H2 };

/* One request on a fresh connection. headers: NULL-ended list or NULL; body: NULL for GET. */
__attribute__((unused)) static void fetch(struct answer *a, const struct fixture *fx, enum proto proto,
                                          const char *target, const char *const *headers, const void *body,
                                          size_t body_len)
{
    CURL *curl = curl_easy_init();
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    char url[512];

    memset(a, 0, sizeof(*a));
    a->body_sum = 14695981039346656037u;
    snprintf(url, sizeof(url), "%s://127.0.0.1:%u%s", proto == PLAIN_H1 ? "http" : "https",
             proto == PLAIN_H1 ? fx->plain_port : fx->tls_port, target);
    for (size_t i = 0; headers != NULL && headers[i] != NULL; i++)
        list = curl_slist_append(list, headers[i]);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 20000L);
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION,
                     proto == TLS_H2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, answer_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, answer_head);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, a);
    if (body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    a->rc = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &a->status);
    curl_easy_getinfo(curl, CURLINFO_HTTP_VERSION, &a->version);
    curl_slist_free_all(list);
    curl_easy_cleanup(curl);
}

#endif

/* Server, TLS: one SSL_CTX from a certificate chain and a key.
 *
 * TLS 1.2 and 1.3, forward secrecy and AEAD only; no compression, no renegotiation, no early data (a replayed
 * request would be a second request); session tickets with keys that live as long as the SSL_CTX, so that a
 * reload makes old tickets useless. A client that offers ALPN without a protocol of ours is refused (RFC
 * 7301, section 3.2), against cross-protocol tricks.
 *
 * Client certificates are optional: who brings one must prove it, by a chain to client_ca_file alone, for the
 * purpose of a client. There are no tickets then: a resumed session would bring an identity that was checked
 * at another time, under another file.
 */
#include "gateway/server_priv.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/secret.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define TLS12_CIPHERS                                                                          \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:" \
    "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
#define SESSION_CONTEXT  "gatehouse"
#define CLIENT_CHAIN_MAX 4

static const unsigned char protocols_both[] = "\x02h2\x08http/1.1";
static const unsigned char protocols_http1[] = "\x08http/1.1";

/* The newest reason of OpenSSL as text; the queue is empty after. */
static const char *tls_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return reason != NULL ? reason : "unknown reason";
}

static int on_alpn(SSL *ssl, const unsigned char **ret_out, unsigned char *ret_len, const unsigned char *in,
                   unsigned int in_len, void *user)
{
    bool http2 = user != NULL;
    const unsigned char *ours = http2 ? protocols_both : protocols_http1;
    unsigned int ours_len = (unsigned int)(http2 ? sizeof(protocols_both) : sizeof(protocols_http1)) - 1;
    unsigned char *chosen;

    (void)ssl;
    if (SSL_select_next_proto(&chosen, ret_len, ours, ours_len, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *ret_out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int refuse_passphrase(char *buf, int size, int writing, void *user)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)user;
    return -1;
}

static enum base_code load_key(SSL_CTX *ctx, const char *key_file, struct base_err *err)
{
    auto_secret struct base_secret *pem = NULL;
    enum base_code rc = base_secret_read_file(&pem, key_file, err);
    EVP_PKEY *key = NULL;
    BIO *bio;
    int ok = 0;

    if (rc != BASE_OK)
        return base_fail_prefix(err, rc, "TLS key");
    bio = BIO_new_mem_buf(base_secret_bytes(pem), (int)base_secret_len(pem));
    if (bio != NULL)
        key = PEM_read_bio_PrivateKey(bio, NULL, refuse_passphrase, NULL);
    if (key != NULL)
        ok = SSL_CTX_use_PrivateKey(ctx, key);
    EVP_PKEY_free(key);
    BIO_free(bio);
    if (key == NULL)
        return base_fail(err, BASE_INVALID, 0, "TLS key %s: not an unencrypted PEM private key (%s)",
                         key_file, tls_reason());
    if (ok != 1)
        return base_fail(err, BASE_INVALID, 0,
                         "TLS key %s does not belong to the certificate (%s); give the key that the "
                         "certificate was issued for",
                         key_file, tls_reason());
    return BASE_OK;
}

static int64_t asn1_seconds(const ASN1_TIME *t)
{
    struct tm tm = {0};

    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static enum base_code check_dates(X509 *cert, const char *cert_file, int64_t *ret_not_after,
                                  struct base_err *err)
{
    int64_t not_before = asn1_seconds(X509_get0_notBefore(cert)),
            not_after = asn1_seconds(X509_get0_notAfter(cert));
    int64_t now = base_wall_us() / 1000000;
    char when[BASE_RFC3339_MAX];

    if (now > not_after) {
        base_rfc3339(not_after * 1000000, when);
        return base_fail(err, BASE_INVALID, 0,
                         "TLS certificate %s has expired (it was valid until %s); install a renewed one",
                         cert_file, when);
    }
    if (now < not_before) {
        base_rfc3339(not_before * 1000000, when);
        return base_fail(err, BASE_INVALID, 0,
                         "TLS certificate %s is not valid before %s; check the machine's clock", cert_file,
                         when);
    }
    *ret_not_after = not_after;
    return BASE_OK;
}

static enum base_code configure(SSL_CTX *ctx, bool http2, struct base_err *err)
{
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ctx, TLS12_CIPHERS) != 1 ||
        SSL_CTX_set_session_id_context(ctx, (const unsigned char *)SESSION_CONTEXT,
                                       sizeof(SESSION_CONTEXT) - 1) != 1)
        return base_fail(err, BASE_INTERNAL, 0, "OpenSSL refused our TLS settings: %s", tls_reason());
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets alone resume */
    SSL_CTX_set_num_tickets(ctx, 1);
    SSL_CTX_set_max_early_data(ctx, 0);
    SSL_CTX_set_default_passwd_cb(ctx, refuse_passphrase);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, http2 ? ctx : NULL);
    return BASE_OK;
}

/* ---- client certificates ---- */

/* OpenSSL takes a certificate without extended key usage for any purpose; here it must say "client". */
static bool is_for_clients(X509 *cert)
{
    return (X509_get_extension_flags(cert) & EXFLAG_XKUSAGE) != 0 &&
           (X509_get_extended_key_usage(cert) & XKU_SSL_CLIENT) != 0;
}

/* Called for each certificate of the chain; 0 ends the handshake. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    int error = X509_STORE_CTX_get_error(store);
    bool leaf = X509_STORE_CTX_get_error_depth(store) == 0;

    if (ok == 0 && (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID))
        return CHECK("mtls.time", false);
    if (ok == 0 && error != X509_V_ERR_INVALID_PURPOSE)
        return CHECK("mtls.chain", false);
    if (!CHECK("mtls.client_usage",
               ok == 1 && (!leaf || is_for_clients(X509_STORE_CTX_get_current_cert(store))))) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_INVALID_PURPOSE);
        return 0;
    }
    return 1;
}

/* The library's SSL is its own, but its BIO has the socket as data, and that knows the connection. */
static void on_info(const SSL *ssl, int where, int ret)
{
    h2o_socket_t *sock;
    struct gw_conn *conn;
    X509 *cert;
    unsigned len = 0;

    (void)ret;
    if ((where & SSL_CB_HANDSHAKE_DONE) == 0)
        return;
    sock = BIO_get_data(SSL_get_rbio(ssl));
    conn = sock != NULL ? gw_conn_of(sock) : NULL;
    cert = SSL_get1_peer_certificate(ssl);
    if (conn != NULL && cert != NULL && SSL_get_verify_result(ssl) == X509_V_OK)
        conn->has_cert = X509_digest(cert, EVP_sha256(), conn->cert_sha256, &len) == 1 && len == 32;
    X509_free(cert);
}

static enum base_code ask_clients(SSL_CTX *ctx, const char *ca_file, struct base_err *err)
{
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(ca_file);

    if (names == NULL || SSL_CTX_load_verify_file(ctx, ca_file) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return base_fail(err, BASE_INVALID, 0, "client_ca_file %s: no certificates in PEM form (%s)", ca_file,
                         tls_reason());
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
    SSL_CTX_set_verify_depth(ctx, CLIENT_CHAIN_MAX);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_info_callback(ctx, on_info);
    return BASE_OK;
}

enum base_code gw_tls_load(SSL_CTX **ret_ctx, int64_t *ret_not_after, const char *cert_file,
                           const char *key_file, const char *client_ca_file, bool http2, struct base_err *err)
{
    SSL_CTX *ctx;
    int64_t not_after = 0;
    enum base_code rc;

    ERR_clear_error();
    ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL)
        return base_fail(err, BASE_INTERNAL, 0, "OpenSSL gave no TLS context: %s", tls_reason());
    rc = configure(ctx, http2, err);
    if (rc == BASE_OK && SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
        rc =
            base_fail(err, BASE_INVALID, 0, "TLS certificate %s cannot be used: %s", cert_file, tls_reason());
    if (rc == BASE_OK)
        rc = check_dates(SSL_CTX_get0_certificate(ctx), cert_file, &not_after, err);
    if (rc == BASE_OK)
        rc = load_key(ctx, key_file, err);
    if (rc == BASE_OK && SSL_CTX_check_private_key(ctx) != 1)
        rc = base_fail(err, BASE_INVALID, 0, "TLS key %s does not belong to certificate %s (%s)", key_file,
                       cert_file, tls_reason());
    if (rc == BASE_OK && client_ca_file != NULL)
        rc = ask_clients(ctx, client_ca_file, err);
    if (rc != BASE_OK) {
        SSL_CTX_free(ctx);
        return rc;
    }
    *ret_ctx = ctx;
    *ret_not_after = not_after;
    return BASE_OK;
}

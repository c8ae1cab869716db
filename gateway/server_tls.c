/* Server, TLS: one SSL_CTX from a certificate chain and a key.
 *
 * TLS 1.2 and 1.3, forward secrecy and AEAD only; no compression, no renegotiation, no early data (a replayed
 * request would be a second request); session tickets with keys that live as long as the SSL_CTX, so that a
 * reload makes old tickets useless. A client that offers ALPN without a protocol of ours is refused (RFC
 * 7301, section 3.2), against cross-protocol tricks.
 */
#include "gateway/server_priv.h"

#include "base/clock.h"
#include "base/secret.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#define TLS12_CIPHERS                                                                          \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:" \
    "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
#define SESSION_CONTEXT "gatehouse"

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

enum base_code gw_tls_load(SSL_CTX **ret_ctx, int64_t *ret_not_after, const char *cert_file,
                           const char *key_file, bool http2, struct base_err *err)
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
    if (rc != BASE_OK) {
        SSL_CTX_free(ctx);
        return rc;
    }
    *ret_ctx = ctx;
    *ret_not_after = not_after;
    return BASE_OK;
}

/* SAML: signatures and decryption, by xmlsec with OpenSSL. See saml_priv.h.
 *
 * KeyInfo is never looked at for signatures: the keys are those of the configured metadata.
 */
#include "gateway/sso/saml_priv.h"

#include "base/mem.h"
#include "base/secret.h"

#include <ctype.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <xmlsec/xmlsec.h> /* before the others: they need its types */

#include <xmlsec/errors.h>
#include <xmlsec/openssl/app.h>
#include <xmlsec/openssl/crypto.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlenc.h>

struct saml_keys {
    xmlSecKeyPtr provider[SAML_KEYS_MAX];
    EVP_PKEY *public_keys[SAML_KEYS_MAX]; /* the same */
    unsigned n;
    xmlSecKeyPtr own; /* NULL: none */
    EVP_PKEY *signing;
};

/* What went wrong inside xmlsec may quote what was brought. */
static void drop_errors(const char *file, int line, const char *func, const char *object, const char *subject,
                        int reason, const char *msg)
{
}

void sso_saml_init(void)
{
    xmlInitParser();
    xmlSecInit();
    xmlSecOpenSSLAppInit(NULL);
    xmlSecOpenSSLInit();
    xmlSecErrorsSetCallback(drop_errors); /* last: the calls above set their own */
}

/* ---- keys ---- */

static xmlSecKeyPtr load(const char *pem, size_t len, xmlSecKeyDataFormat format)
{
    return xmlSecOpenSSLAppKeyLoadMemory((const xmlSecByte *)pem, (xmlSecSize)len, format, NULL, NULL, NULL);
}

/* RSA of 2048 bits or more, or an elliptic curve of 256 or more; NULL: neither. */
static EVP_PKEY *public_key(const char *pem)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    X509 *certificate = PEM_read_bio_X509(in, NULL, NULL, NULL);
    EVP_PKEY *key = certificate != NULL ? X509_get_pubkey(certificate) : NULL;

    if (key != NULL && (EVP_PKEY_base_id(key) != EVP_PKEY_EC || EVP_PKEY_bits(key) < 256) &&
        (EVP_PKEY_base_id(key) != EVP_PKEY_RSA || EVP_PKEY_bits(key) < 2048)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    X509_free(certificate);
    BIO_free(in);
    return key;
}

enum base_code saml_keys_new(struct saml_keys **ret_keys, const char *const *certificates, size_t n,
                             const char *key_pem, struct base_err *err)
{
    struct saml_keys *keys = base_zalloc(sizeof(*keys));
    enum base_code rc = BASE_OK;

    for (size_t i = 0; i < n && rc == BASE_OK; i++) {
        keys->public_keys[keys->n] = public_key(certificates[i]);
        keys->provider[keys->n] = load(certificates[i], strlen(certificates[i]), xmlSecKeyDataFormatCertPem);
        if (keys->public_keys[keys->n] == NULL)
            rc = base_fail(err, BASE_INVALID, 0,
                           "certificate %zu of the metadata cannot be read, or its key is shorter than 2048 "
                           "bits (256 of an elliptic curve)",
                           i + 1);
        else if (keys->provider[keys->n] == NULL)
            rc = base_fail(err, BASE_INVALID, 0, "certificate %zu of the metadata cannot be used", i + 1);
        else
            keys->n++;
    }
    if (rc == BASE_OK && key_pem != NULL) {
        BIO *in = BIO_new_mem_buf(key_pem, -1);

        keys->own = load(key_pem, strlen(key_pem), xmlSecKeyDataFormatPem);
        keys->signing = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL);
        BIO_free(in);
        if (keys->own == NULL || keys->signing == NULL || EVP_PKEY_base_id(keys->signing) != EVP_PKEY_RSA)
            rc = base_fail(err, BASE_INVALID, 0, "our SAML key is no RSA private key in PEM");
    }
    if (rc != BASE_OK) {
        saml_keys_free(keys);
        return rc;
    }
    *ret_keys = keys;
    return BASE_OK;
}

void saml_keys_free(struct saml_keys *keys)
{
    if (keys == NULL)
        return;
    for (unsigned i = 0; i < SAML_KEYS_MAX; i++) {
        if (keys->provider[i] != NULL)
            xmlSecKeyDestroy(keys->provider[i]);
        EVP_PKEY_free(keys->public_keys[i]);
    }
    if (keys->own != NULL)
        xmlSecKeyDestroy(keys->own);
    EVP_PKEY_free(keys->signing);
    free(keys);
}

bool saml_has_key(const struct saml_keys *keys)
{
    return keys->own != NULL;
}

/* ---- signatures ---- */

static bool verify_with(xmlSecKeyPtr key, xmlNode *signature)
{
    xmlSecDSigCtxPtr ctx = xmlSecDSigCtxCreate(NULL);
    bool good = false;

    if (ctx == NULL)
        return false;
    ctx->signKey = xmlSecKeyDuplicate(key);
    ctx->enabledReferenceUris = xmlSecTransformUriTypeSameDocument;
    /* the same lists as saml_check_structure; here because the library must not do more than was looked at */
    if (ctx->signKey != NULL && xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecTransformEnvelopedId) == 0 &&
        xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecTransformExclC14NId) == 0 &&
        xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecOpenSSLTransformSha256Id) == 0 &&
        xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecOpenSSLTransformSha384Id) == 0 &&
        xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecOpenSSLTransformSha512Id) == 0)
        good = xmlSecDSigCtxVerify(ctx, signature) == 0 && ctx->status == xmlSecDSigStatusSucceeded &&
               xmlSecPtrListGetSize(&ctx->signedInfoReferences) == 1;
    xmlSecDSigCtxDestroy(ctx);
    return good;
}

bool saml_verify(struct saml_keys *keys, xmlNode *signed_node, struct sso_reply *reply)
{
    xmlNode *signature = saml_child(signed_node, NS_DS, "Signature");
    xmlAttr *id = xmlHasProp(signed_node, (const xmlChar *)"ID"), *registered;
    xmlChar *value = id != NULL ? xmlNodeListGetString(signed_node->doc, id->children, 1) : NULL;
    bool good = false;

    if (value != NULL) {
        xmlAddID(NULL, signed_node->doc, value, id);
        registered = xmlGetID(signed_node->doc, value);
        /* the reference, which names this ID, must lead to this very element */
        for (unsigned i = 0; i < keys->n && !good && registered != NULL && registered->parent == signed_node;
             i++)
            good = verify_with(keys->provider[i], signature);
    }
    xmlFree(value);
    if (!CHECK("saml.signature", good))
        return sso_refuse(reply, "saml.signature",
                          "the signature of the %s does not hold with any key of the provider's metadata",
                          (const char *)signed_node->name);
    return true;
}

char *saml_sign_text(struct saml_keys *keys, const char *text)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char signature[1024];
    size_t n = sizeof(signature);
    char *coded = NULL;

    if (ctx != NULL && keys->signing != NULL &&
        EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, keys->signing) == 1 &&
        EVP_DigestSign(ctx, signature, &n, (const unsigned char *)text, strlen(text)) == 1)
        coded = saml_base64_encode(signature, n);
    EVP_MD_CTX_free(ctx);
    return coded;
}

/* r and s, one behind the other, as DER. NULL: not of the length that the key's curve wants. */
static unsigned char *der_of_raw(const EVP_PKEY *key, const unsigned char *raw, size_t n, size_t *ret_n)
{
    size_t half = ((size_t)EVP_PKEY_bits(key) + 7) / 8;
    ECDSA_SIG *pair = n == 2 * half ? ECDSA_SIG_new() : NULL;
    BIGNUM *r = pair != NULL ? BN_bin2bn(raw, (int)half, NULL) : NULL;
    BIGNUM *s = pair != NULL ? BN_bin2bn(raw + half, (int)half, NULL) : NULL;
    unsigned char *der = NULL;
    int len = -1;

    if (r != NULL && s != NULL && ECDSA_SIG_set0(pair, r, s) == 1) {
        r = s = NULL; /* the pair's now */
        len = i2d_ECDSA_SIG(pair, &der);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(pair);
    if (len <= 0)
        return NULL;
    *ret_n = (size_t)len;
    return der;
}

static bool holds(EVP_PKEY *key, const EVP_MD *hash, const char *text, const unsigned char *signature,
                  size_t n)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool good = ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, hash, NULL, key) == 1 &&
                EVP_DigestVerify(ctx, signature, n, (const unsigned char *)text, strlen(text)) == 1;

    EVP_MD_CTX_free(ctx);
    return good;
}

/* Bindings 3.4.4.1 takes the signature's octets from XML Signature, which writes r and s one behind the other (RFC 6931 section 2.3.6); many
 * providers send what their library gives, which is DER. Either is a whole signature over the same text by the same key. */
static bool holds_ecdsa(EVP_PKEY *key, const EVP_MD *hash, const char *text, const unsigned char *signature,
                        size_t n)
{
    size_t der_n = 0;
    unsigned char *der = der_of_raw(key, signature, n, &der_n);
    bool good = der != NULL && holds(key, hash, text, der, der_n);

    OPENSSL_free(der);
    return good || holds(key, hash, text, signature, n);
}

bool saml_verify_text(struct saml_keys *keys, const char *algorithm, const char *text,
                      const unsigned char *signature, size_t n)
{
    static const struct {
        const char *uri, *hash;
        int kind;
    } known[] = {{"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", "SHA256", EVP_PKEY_RSA},
                 {"http://www.w3.org/2001/04/xmldsig-more#rsa-sha384", "SHA384", EVP_PKEY_RSA},
                 {"http://www.w3.org/2001/04/xmldsig-more#rsa-sha512", "SHA512", EVP_PKEY_RSA},
                 {"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", "SHA256", EVP_PKEY_EC},
                 {"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", "SHA384", EVP_PKEY_EC},
                 {"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512", "SHA512", EVP_PKEY_EC}};
    const EVP_MD *hash = NULL;
    bool good = false;
    int kind = 0;

    for (size_t i = 0; i < BASE_ARRAY_LEN(known); i++)
        if (strcmp(known[i].uri, algorithm) == 0) {
            hash = EVP_get_digestbyname(known[i].hash);
            kind = known[i].kind;
        }
    for (unsigned i = 0; i < keys->n && hash != NULL && !good; i++) {
        EVP_PKEY *key = keys->public_keys[i];

        if (EVP_PKEY_base_id(key) == kind)
            good = (kind == EVP_PKEY_EC ? holds_ecdsa : holds)(key, hash, text, signature, n);
    }
    return good;
}

/* ---- encryption ---- */

static bool decrypt_node(struct saml_keys *keys, xmlNode *data)
{
    xmlSecKeysMngrPtr manager = xmlSecKeysMngrCreate();
    xmlSecEncCtxPtr ctx = NULL;
    xmlSecKeyPtr key = NULL;
    bool done = false;

    if (manager != NULL && xmlSecOpenSSLAppDefaultKeysMngrInit(manager) == 0 &&
        (key = xmlSecKeyDuplicate(keys->own)) != NULL &&
        xmlSecOpenSSLAppDefaultKeysMngrAdoptKey(manager, key) == 0) {
        ctx = xmlSecEncCtxCreate(manager);
        done = ctx != NULL && xmlSecEncCtxDecrypt(ctx, data) == 0 && ctx->resultReplaced != 0;
    } else if (key != NULL) {
        xmlSecKeyDestroy(key);
    }
    if (ctx != NULL)
        xmlSecEncCtxDestroy(ctx);
    if (manager != NULL)
        xmlSecKeysMngrDestroy(manager);
    return done;
}

static bool method_in(const xmlNode *node, const char *const *good, size_t n)
{
    char *algorithm = saml_attribute(saml_child(node, NS_ENC, "EncryptionMethod"), "Algorithm");
    bool found = false;

    for (size_t i = 0; i < n && algorithm != NULL; i++)
        found = found || strcmp(algorithm, good[i]) == 0;
    free(algorithm);
    return found;
}

/* CBC has no check of its own (padding oracles): it is taken only inside a Response whose signature has been verified. */
static bool check_encryption(const xmlNode *response, const xmlNode *data, struct sso_reply *reply)
{
    static const char *const gcm[] = {"http://www.w3.org/2009/xmlenc11#aes128-gcm",
                                      "http://www.w3.org/2009/xmlenc11#aes256-gcm"};
    static const char *const cbc[] = {"http://www.w3.org/2001/04/xmlenc#aes128-cbc",
                                      "http://www.w3.org/2001/04/xmlenc#aes256-cbc"};
    static const char *const oaep[] = {"http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p",
                                       "http://www.w3.org/2009/xmlenc11#rsa-oaep"};
    const xmlNode *key = saml_child(saml_child(data, NS_DS, "KeyInfo"), NS_ENC, "EncryptedKey");

    if (!CHECK("saml.encryption", data != NULL && (method_in(data, gcm, 2) ||
                                                   (method_in(data, cbc, 2) &&
                                                    saml_child(response, NS_DS, "Signature") != NULL))))
        return sso_refuse(reply, "saml.encryption",
                          "the assertion is encrypted with a method that is not taken");
    if (!CHECK("saml.key_encryption", key != NULL && method_in(key, oaep, 2)))
        return sso_refuse(reply, "saml.key_encryption", "the assertion's key is not encrypted with RSA-OAEP");
    return true;
}

bool saml_decrypt(struct saml_keys *keys, xmlNode *response, struct sso_reply *reply)
{
    xmlNode *box = saml_child(response, NS_SAML, "EncryptedAssertion"),
            *data = saml_child(box, NS_ENC, "EncryptedData"), *assertion;

    if (keys->own == NULL)
        return sso_refuse(reply, "saml.no_key", "the assertion is encrypted, and no key_file is configured");
    if (!check_encryption(response, data, reply))
        return false;
    if (saml_count(box, NS_ENC, "EncryptedData") != 1 || data == NULL || !decrypt_node(keys, data))
        return sso_refuse(reply, "saml.decrypt", "the assertion cannot be decrypted with our key");
    assertion = saml_child(box, NS_SAML, "Assertion");
    if (assertion == NULL)
        return sso_refuse(reply, "saml.decrypt", "what was encrypted is no assertion");
    xmlUnlinkNode(assertion);
    xmlReplaceNode(box, assertion);
    xmlFreeNode(box);
    return true;
}

/* ---- base64 ---- */

enum base_code saml_base64_decode(const char *text, size_t len, unsigned char **ret_bytes, size_t *ret_n)
{
    char *packed = base_alloc(len + 4);
    unsigned char *bytes;
    size_t n = 0, padding = 0;
    int got;

    for (size_t i = 0; i < len; i++) { /* lines of 64 or 76 are allowed by the POST binding */
        if (text[i] == '\r' || text[i] == '\n' || text[i] == ' ' || text[i] == '\t')
            continue;
        if ((padding > 0 && text[i] != '=') ||
            (text[i] != '+' && text[i] != '/' && text[i] != '=' && !isalnum((unsigned char)text[i])))
            goto bad;
        padding += text[i] == '=';
        packed[n++] = text[i];
    }
    if (n == 0 || n % 4 != 0 || padding > 2)
        goto bad;
    bytes = base_alloc(n / 4 * 3 + 1);
    got = EVP_DecodeBlock(bytes, (unsigned char *)packed, (int)n);
    free(packed);
    if (got < 0) {
        free(bytes);
        return BASE_INVALID;
    }
    *ret_bytes = bytes;
    *ret_n = (size_t)got - padding;
    return BASE_OK;
bad:
    free(packed);
    return BASE_INVALID;
}

char *saml_base64_encode(const void *bytes, size_t n)
{
    char *text = base_alloc(n / 3 * 4 + 8);

    EVP_EncodeBlock((unsigned char *)text, bytes, (int)n);
    return text;
}

/* SAML: XML, before and while it is parsed. See saml_priv.h.
 *
 * Source: SAML 2.0 Core; OWASP SAML Security; the wrapping attacks of Somorovsky et al. (USENIX Security 2012).
 */
#include "gateway/sso/saml_priv.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"

#include <libxml/parser.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the bytes ---- */

/* Past a quoted attribute's '>' and the like; the end of the tag at `at`. */
static size_t tag_end(const char *xml, size_t len, size_t at)
{
    char quote = '\0';

    for (; at < len; at++) {
        if (quote != '\0')
            quote = xml[at] == quote ? '\0' : quote;
        else if (xml[at] == '"' || xml[at] == '\'')
            quote = xml[at];
        else if (xml[at] == '>')
            return at;
    }
    return len;
}

static size_t skip_past(const char *xml, size_t len, size_t at, const char *mark)
{
    const char *found = memmem(xml + at, len - at, mark, strlen(mark));

    return found != NULL ? (size_t)(found - xml) + strlen(mark) : len;
}

struct scan {
    unsigned depth, deepest, n_tags;
    bool doctype, instruction;
};

/* A look at the markup alone; what is no well-formed XML fails in the parser after. */
static struct scan look_over(const char *xml, size_t len)
{
    struct scan scan = {0};
    size_t at = 0;

    while (at < len) {
        const char *lt = memchr(xml + at, '<', len - at);

        if (lt == NULL)
            break;
        at = (size_t)(lt - xml);
        if (len - at >= 4 && memcmp(lt, "<!--", 4) == 0) {
            at = skip_past(xml, len, at + 4, "-->");
        } else if (len - at >= 9 && memcmp(lt, "<![CDATA[", 9) == 0) {
            at = skip_past(xml, len, at + 9, "]]>");
        } else if (len - at >= 2 && lt[1] == '!') {
            scan.doctype = true;
            break;
        } else if (len - at >= 2 && lt[1] == '?') {
            scan.instruction = scan.instruction || at != 0 || len < 6 || memcmp(lt, "<?xml ", 6) != 0;
            at = skip_past(xml, len, at + 2, "?>");
        } else {
            size_t end = tag_end(xml, len, at + 1);

            scan.n_tags++;
            if (len - at >= 2 && lt[1] == '/')
                scan.depth -= scan.depth > 0;
            else if (end == len || xml[end - 1] != '/')
                scan.depth++;
            if (scan.depth > scan.deepest)
                scan.deepest = scan.depth;
            at = end;
        }
    }
    return scan;
}

xmlDoc *saml_parse(const char *xml, size_t len, struct sso_reply *reply)
{
    struct scan scan;
    xmlDoc *doc;

    if (!CHECK("saml.size", len <= SAML_XML_MAX)) {
        sso_refuse(reply, "saml.size", "the message has %zu bytes, at most %u are read", len, SAML_XML_MAX);
        return NULL;
    }
    if (memchr(xml, '\0', len) != NULL || !base_utf8_valid(xml, len)) {
        sso_refuse(reply, "saml.utf8", "the message is not UTF-8");
        return NULL;
    }
    scan = look_over(xml, len);
    if (!CHECK("saml.doctype", !scan.doctype))
        sso_refuse(reply, "saml.doctype", "the message has a document type or an entity");
    else if (!CHECK("saml.instruction", !scan.instruction))
        sso_refuse(reply, "saml.instruction", "the message has a processing instruction");
    else if (!CHECK("saml.depth", scan.deepest <= SAML_DEPTH_MAX && scan.n_tags <= 2 * SAML_NODES_MAX))
        sso_refuse(reply, "saml.depth", "the message nests more than %u deep or has too many elements",
                   SAML_DEPTH_MAX);
    if (reply->refused)
        return NULL;
    doc = xmlReadMemory(xml, (int)len, NULL, "UTF-8",
                        XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (doc == NULL || doc->intSubset != NULL || xmlDocGetRootElement(doc) == NULL) {
        sso_refuse(reply, "saml.xml", "the message is not well-formed XML");
        xmlFreeDoc(doc);
        return NULL;
    }
    return doc;
}

/* ---- the tree ---- */

bool saml_is(const xmlNode *node, const char *ns, const char *name)
{
    return node != NULL && node->type == XML_ELEMENT_NODE && node->ns != NULL &&
           strcmp((const char *)node->ns->href, ns) == 0 && strcmp((const char *)node->name, name) == 0;
}

xmlNode *saml_child(const xmlNode *parent, const char *ns, const char *name)
{
    for (xmlNode *at = parent != NULL ? parent->children : NULL; at != NULL; at = at->next)
        if (saml_is(at, ns, name))
            return at;
    return NULL;
}

size_t saml_count(const xmlNode *parent, const char *ns, const char *name)
{
    size_t n = 0;

    for (const xmlNode *at = parent != NULL ? parent->children : NULL; at != NULL; at = at->next)
        n += saml_is(at, ns, name);
    return n;
}

/* Depth is bounded by saml_parse. */
size_t saml_count_all(const xmlNode *node, const char *ns, const char *name)
{
    size_t n = saml_is(node, ns, name);

    for (const xmlNode *at = node->children; at != NULL; at = at->next)
        if (at->type == XML_ELEMENT_NODE)
            n += saml_count_all(at, ns, name);
    return n;
}

char *saml_text(const xmlNode *node)
{
    struct base_buf text = BASE_BUF_INIT(SAML_TEXT_MAX);

    for (const xmlNode *at = node != NULL ? node->children : NULL; at != NULL; at = at->next) {
        if (at->type == XML_COMMENT_NODE)
            continue;
        if ((at->type != XML_TEXT_NODE && at->type != XML_CDATA_SECTION_NODE) ||
            base_buf_append_str(&text, (const char *)at->content) != BASE_OK) {
            base_buf_free(&text);
            return NULL;
        }
    }
    return base_buf_take(&text);
}

char *saml_attribute(const xmlNode *node, const char *name)
{
    xmlChar *value = node != NULL ? xmlGetNoNsProp(node, (const xmlChar *)name) : NULL;
    char *copy = value != NULL && strlen((char *)value) <= SAML_TEXT_MAX ? base_strdup((char *)value) : NULL;

    xmlFree(value);
    return copy;
}

static bool digits(const char *text, unsigned n, unsigned *ret_value)
{
    *ret_value = 0;
    for (unsigned i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *ret_value = *ret_value * 10 + (unsigned)(text[i] - '0');
    }
    return true;
}

/* SAML Core 1.3.3: UTC, with or without fractions. */
bool saml_time(const char *text, int64_t *ret_time)
{
    static const unsigned before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    unsigned y, mo, d, h, mi, s;
    int64_t days;

    if (text == NULL || strlen(text) < 20 || !digits(text, 4, &y) || text[4] != '-' ||
        !digits(text + 5, 2, &mo) || text[7] != '-' || !digits(text + 8, 2, &d) || text[10] != 'T' ||
        !digits(text + 11, 2, &h) || text[13] != ':' || !digits(text + 14, 2, &mi) || text[16] != ':' ||
        !digits(text + 17, 2, &s))
        return false;
    text += 19;
    if (*text == '.')
        text += 1 + strspn(text + 1, "0123456789");
    if ((strcmp(text, "Z") != 0 && strcmp(text, "+00:00") != 0) || y < 1970 || y > 9999 || mo < 1 ||
        mo > 12 || d < 1 || d > 31 || h > 23 || mi > 59 || s > 60)
        return false;
    days = (int64_t)(y - 1970) * 365 + (y - 1969) / 4 - (y - 1901) / 100 + (y - 1601) / 400 + before[mo - 1] +
           d - 1;
    if (mo > 2 && ((y % 4 == 0 && y % 100 != 0) || y % 400 == 0))
        days++;
    *ret_time = days * 86400 + h * 3600 + mi * 60 + s;
    return true;
}

/* ---- structure ---- */

static const char *const good_transforms[] = {"http://www.w3.org/2000/09/xmldsig#enveloped-signature",
                                              "http://www.w3.org/2001/10/xml-exc-c14n#"};
static const char *const good_canonical[] = {"http://www.w3.org/2001/10/xml-exc-c14n#"};
static const char *const good_signatures[] = {"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
                                              "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384",
                                              "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512",
                                              "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256",
                                              "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384",
                                              "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512"};
static const char *const good_digests[] = {"http://www.w3.org/2001/04/xmlenc#sha256",
                                           "http://www.w3.org/2001/04/xmldsig-more#sha384",
                                           "http://www.w3.org/2001/04/xmlenc#sha512"};

static bool algorithm_in(const xmlNode *node, const char *const *good, size_t n)
{
    char *algorithm = saml_attribute(node, "Algorithm");
    bool found = false;

    for (size_t i = 0; i < n && algorithm != NULL; i++)
        found = found || strcmp(algorithm, good[i]) == 0;
    free(algorithm);
    return found;
}

/* Text alone, without comments: a comment inside has been used to show two readers two digests (CVE-2025-29774, -29775). */
static bool plain_text(const xmlNode *node)
{
    return node != NULL && node->children != NULL && node->children->type == XML_TEXT_NODE &&
           node->children->next == NULL;
}

static bool check_reference(const xmlNode *reference, const char *id, struct sso_reply *reply)
{
    const xmlNode *transforms = saml_child(reference, NS_DS, "Transforms");
    char *uri = saml_attribute(reference, "URI");
    bool ours = uri != NULL && uri[0] == '#' && strcmp(uri + 1, id) == 0;
    unsigned n = 0;

    free(uri);
    if (!CHECK("saml.reference", ours))
        return sso_refuse(reply, "saml.reference", "a signature is not of the element that it stands in");
    for (const xmlNode *at = transforms != NULL ? transforms->children : NULL; at != NULL; at = at->next) {
        if (at->type != XML_ELEMENT_NODE)
            continue;
        if (!CHECK("saml.transform", ++n <= 2 && saml_is(at, NS_DS, "Transform") &&
                                         algorithm_in(at, good_transforms, BASE_ARRAY_LEN(good_transforms))))
            return sso_refuse(reply, "saml.transform",
                              "a signature uses a transform that is not allowed, or too many");
    }
    if (!CHECK("saml.digest", algorithm_in(saml_child(reference, NS_DS, "DigestMethod"), good_digests,
                                           BASE_ARRAY_LEN(good_digests))))
        return sso_refuse(reply, "saml.digest", "a signature's digest is too weak or not known");
    if (!CHECK("saml.digest_value", saml_count(reference, NS_DS, "DigestValue") == 1 &&
                                        plain_text(saml_child(reference, NS_DS, "DigestValue"))))
        return sso_refuse(reply, "saml.digest_value", "a digest is there twice, or is no plain text");
    return true;
}

static bool check_signature(const xmlNode *signature, const xmlNode *parent, struct sso_reply *reply)
{
    const xmlNode *info = saml_child(signature, NS_DS, "SignedInfo");
    char *id = saml_attribute(parent, "ID");
    bool good = false;

    if (!CHECK("saml.signature_form",
               saml_count(signature, NS_DS, "SignedInfo") == 1 &&
                   saml_count(signature, NS_DS, "Object") == 0 && saml_count(info, NS_DS, "Reference") == 1 &&
                   id != NULL && id[0] != '\0' && saml_count(signature, NS_DS, "SignatureValue") == 1))
        sso_refuse(reply, "saml.signature_form",
                   "a signature has not one SignedInfo with one Reference, or carries an Object");
    else if (!CHECK("saml.canonicalization", algorithm_in(saml_child(info, NS_DS, "CanonicalizationMethod"),
                                                          good_canonical, BASE_ARRAY_LEN(good_canonical))))
        sso_refuse(reply, "saml.canonicalization",
                   "a signature uses another canonical form than exclusive C14N without comments");
    else if (!CHECK("saml.algorithm", algorithm_in(saml_child(info, NS_DS, "SignatureMethod"),
                                                   good_signatures, BASE_ARRAY_LEN(good_signatures))))
        sso_refuse(reply, "saml.algorithm", "a signature's algorithm is too weak or not allowed");
    else
        good = id != NULL && check_reference(saml_child(info, NS_DS, "Reference"), id, reply);
    free(id);
    return good;
}

struct ids {
    char *items[64];
    size_t n;
    bool twice, too_many;
};

static void collect_ids(const xmlNode *node, struct ids *ids)
{
    static const char *const names[] = {"ID", "Id", "id"};

    for (size_t k = 0; k < BASE_ARRAY_LEN(names); k++) {
        char *id = saml_attribute(node, names[k]);

        if (id == NULL)
            continue;
        for (size_t i = 0; i < ids->n; i++)
            ids->twice = ids->twice || strcmp(ids->items[i], id) == 0;
        if (ids->n == BASE_ARRAY_LEN(ids->items)) {
            ids->too_many = true;
            free(id);
            return;
        }
        ids->items[ids->n++] = id;
    }
    for (const xmlNode *at = node->children; at != NULL; at = at->next)
        if (at->type == XML_ELEMENT_NODE)
            collect_ids(at, ids);
}

static bool ids_unique(const xmlNode *root)
{
    struct ids ids = {.n = 0};

    collect_ids(root, &ids);
    for (size_t i = 0; i < ids.n; i++)
        free(ids.items[i]);
    return !ids.twice && !ids.too_many;
}

bool saml_check_structure(xmlNode *root, struct sso_reply *reply)
{
    const xmlNode *assertion = saml_child(root, NS_SAML, "Assertion"),
                  *own = saml_child(root, NS_DS, "Signature"), *inner;
    size_t n_plain = saml_count(root, NS_SAML, "Assertion"),
           n_encrypted = saml_count(root, NS_SAML, "EncryptedAssertion"), n_signatures;

    if (!CHECK("saml.root", saml_is(root, NS_SAMLP, "Response")))
        return sso_refuse(reply, "saml.root", "the message is no Response");
    if (!CHECK("saml.one_assertion", n_plain + n_encrypted == 1))
        return sso_refuse(reply, "saml.one_assertion", "there are %zu assertions, one is wanted",
                          n_plain + n_encrypted);
    if (!CHECK("saml.hidden_assertion",
               saml_count_all(root, NS_SAML, "Assertion") == n_plain &&
                   saml_count_all(root, NS_SAML, "EncryptedAssertion") == n_encrypted &&
                   saml_count_all(root, NS_SAMLP, "Response") == 1))
        return sso_refuse(reply, "saml.hidden_assertion", "there is another assertion or response inside");
    if (!CHECK("saml.ids", ids_unique(root)))
        return sso_refuse(reply, "saml.ids", "an ID is there twice");
    inner = saml_child(assertion, NS_DS, "Signature");
    n_signatures = (own != NULL) + (inner != NULL);
    if (!CHECK("saml.signatures", saml_count_all(root, NS_DS, "Signature") == n_signatures))
        return sso_refuse(reply, "saml.signatures", "there is a second signature, or one where none belongs");
    return (own == NULL || check_signature(own, root, reply)) &&
           (inner == NULL || check_signature(inner, assertion, reply));
}

bool saml_check_own_signature(xmlNode *root, struct sso_reply *reply)
{
    const xmlNode *own = saml_child(root, NS_DS, "Signature");

    if (!CHECK("saml.logout_signed",
               own != NULL && saml_count_all(root, NS_DS, "Signature") == 1 && ids_unique(root)))
        return sso_refuse(reply, "saml.logout_signed", "the logout message is not signed, or more than once");
    return own != NULL && check_signature(own, root, reply);
}

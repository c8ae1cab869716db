/* What each detector finds and what it leaves alone: every shape with its near miss. */
#include "policy/policy.h"

#include "guard_help.h"
#include "tap.h"

static struct pol_snapshot *snapshot;
static struct pol_scratch *scratch;

/* The findings as "kind:text|kind:text", without empty ones. */
static const char *found(const char *text)
{
    static char out[8192];
    struct pol_findings findings = {0};
    struct base_err err = {0};
    size_t n = 0;

    out[0] = '\0';
    if (pol_scan(snapshot, scratch, text, strlen(text), &findings, &err) != BASE_OK)
        snprintf(out, sizeof(out), "failed: %s", err.detail);
    for (size_t i = 0; i < findings.n; i++) {
        const struct pol_finding *f = &findings.items[i];

        if (f->start < f->end)
            n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%s:%.*s", n > 0 ? "|" : "",
                                  pol_detector_name(f->detector), (int)(f->end - f->start), text + f->start);
    }
    pol_findings_free(&findings);
    return out;
}

struct row {
    const char *text, *found;
};

static void check_rows(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *have = found(rows[i].text);

        if (strcmp(have, rows[i].found) != 0)
            printf("# text: %s\n", rows[i].text);
        CHECK_STR(have, rows[i].found);
    }
}

#define ROWS(...)                                         \
    do {                                                  \
        static const struct row rows[] = {__VA_ARGS__};   \
        check_rows(rows, sizeof(rows) / sizeof(rows[0])); \
    } while (0)

static void test_card__networks_and_lengths(void)
{
    ROWS({"4111111111111111", "card:4111111111111111"}, {"a 5555555555554444 b", "card:5555555555554444"},
         {"2223003122003222", "card:2223003122003222"}, {"378282246310005", "card:378282246310005"},
         {"30569309025904", "card:30569309025904"}, {"6011111111111117", "card:6011111111111117"},
         {"3530111333300000", "card:3530111333300000"}, {"4222222222222", "card:4222222222222"},
         {"501864667909", "card:501864667909"}, {"180000826105910", "card:180000826105910"},
         {"4064557646766436702", "card:4064557646766436702"}, {"6304000000000000", "card:6304000000000000"});
}

static void test_card__near_misses(void)
{
    ROWS({"4111111111111112", ""}, /* Luhn */
         {"9111111111111111", ""}, /* no network */
         {"411111111111111", ""},  /* length */
         {"41111111111111111111", ""}, {"number 1234567890123456 of", ""},
         {"0.4111111111111111 rounds", ""},                     /* a fraction */
         {"call +573001234567 now", ""}, {"1700000000000", ""}, /* milliseconds since 1970 */
         {"550e8400-e29b-41d4-a716-446655440000", ""}, {"2024-01-02 2024-01-03 2024-01-04", ""},
         {"51 52 53 54 55 56 57 58", ""}, {"4, 8, 15, 16, 23, 42, 108, 4", ""});
}

static void test_card__written_in_groups(void)
{
    ROWS({"4111 1111 1111 1111.", "card:4111 1111 1111 1111"},
         {"4111-1111-1111-1111", "card:4111-1111-1111-1111"},
         {"4111.1111.1111.1111", "card:4111.1111.1111.1111"},
         {"4111 - 1111 - 1111 - 1111", "card:4111 - 1111 - 1111 - 1111"},
         {"4111-1111 1111-1111", "card:4111-1111 1111-1111"}, {"3782 822463 10005", "card:3782 822463 10005"},
         {"3056 930902 5904", "card:3056 930902 5904"},
         {"4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "card:4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"},
         {"41-11-11-11-11-11-11-11", "card:41-11-11-11-11-11-11-11"},
         {"exp 4111111111111111 12/27 cvc 123", "card:4111111111111111"},
         {"12 4111 1111 1111 1111", "card:4111 1111 1111 1111"}, {"4111 1111 1111 11111", ""},
         {"4111    1111    1111    1111", ""});
}

static void test_card__among_other_text(void)
{
    ROWS({"PAN=4111111111111111;", "card:4111111111111111"},
         {"%B4111111111111111^DOE", "card:4111111111111111"},
         {"4111111111111111,5555555555554444", "card:4111111111111111|card:5555555555554444"},
         {"4111111111111111 5555555555554444", "card:4111111111111111|card:5555555555554444"},
         {"4111 1111 1111 1111 5555 5555 5555 4444", "card:4111 1111 1111 1111|card:5555 5555 5555 4444"});
}

static void test_card__disguised(void)
{
    ROWS({"4111\xc2\xa0"
          "1111\xc2\xa0"
          "1111\xc2\xa0"
          "1111",
          "card:4111\xc2\xa0"
          "1111\xc2\xa0"
          "1111\xc2\xa0"
          "1111"}, /* no-break space */
         {"4111–1111–1111–1111", "card:4111–1111–1111–1111"},
         {"4111·1111·1111·1111", "card:4111·1111·1111·1111"},
         {"４１１１１１１１１１１１１１１１", "card:４１１１１１１１１１１１１１１１"}, /* full-width */
         {"𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏", "card:𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏"},
         {"٤١١١١١١١١١١١١١١١", "card:٤١١١١١١١١١١١١١١١"}, /* Arabic-Indic */
         {"41\u200b11\u200b1111\u20601111\ufeff1111", "card:41\u200b11\u200b1111\u20601111\ufeff1111"},
         {"4\u00ad1\u00ad1\u00ad1\u00ad111111111111", "card:4\u00ad1\u00ad1\u00ad1\u00ad111111111111"},
         {"4\u0336111\u0336111111111111", "card:4\u0336111\u0336111111111111"} /* struck through */);
}

static void test_iban__shapes(void)
{
    ROWS({"DE89370400440532013000", "iban:DE89370400440532013000"},
         {"IBAN: DE89 3704 0044 0532 0130 00.", "iban:DE89 3704 0044 0532 0130 00"},
         {"gb82west12345698765432", "iban:gb82west12345698765432"},
         {"GB82-WEST-1234-5698-7654-32", "iban:GB82-WEST-1234-5698-7654-32"},
         {"NO9386011117947", "iban:NO9386011117947"},
         {"FR14 2004 1010 0505 0001 3M02 606", "iban:FR14 2004 1010 0505 0001 3M02 606"},
         {"MT84MALT011000012345MTLCAST001S", "iban:MT84MALT011000012345MTLCAST001S"},
         {"DE12 GB82WEST12345698765432", "iban:GB82WEST12345698765432"},
         {"ＤＥ８９370400440532013000", "iban:ＤＥ８９370400440532013000"},
         {"DE\u200b89370400440532013000", "iban:DE\u200b89370400440532013000"});
}

static void test_iban__digits_inside_are_no_card(void)
{
    ROWS({"My IBAN is GB90YNTU67299444055881", "iban:GB90YNTU67299444055881"},
         {"67299444055881", "card:67299444055881"},
         /* the card is certain first, the account number takes it back */
         {"RO20 AAAA 4111 1111 1111 1111.", "iban:RO20 AAAA 4111 1111 1111 1111"},
         {"AAAA 4111 1111 1111 1111.", "card:4111 1111 1111 1111"});
}

static void test_iban__near_misses(void)
{
    ROWS({"DE89370400440532013001", ""}, /* check */
         {"DE8937040044053201300", ""},  /* length */
         {"DE893704004405320130000", ""}, {"XX89370400440532013000", ""}, {"xDE89370400440532013000", ""},
         {"GB12 people went there and then there", ""});
}

static void test_email__shapes(void)
{
    ROWS({"bob@example.org", "email:bob@example.org"},
         {"<a.b+c@sub.example.co.uk>", "email:a.b+c@sub.example.co.uk"},
         {"Write to bob@example.org.", "email:bob@example.org"},
         {"mailto:bob@example.org?subject=x", "email:bob@example.org"},
         {"https://bob@example.org/path", "email:bob@example.org"},
         {"?to=bob@example.org&x=1", "email:bob@example.org"},
         {"müller@exämple.de", "email:müller@exämple.de"},
         {"x@xn--bcher-kva.example", "email:x@xn--bcher-kva.example"},
         {"x@mail.xn--p1ai", "email:x@mail.xn--p1ai"}, {"bob@example.org-signature", "email:bob@example.org"},
         {"bob＠example.org", "email:bob＠example.org"},
         {"bo\u200bb@exam\u00adple.org", "email:bo\u200bb@exam\u00adple.org"},
         {"联系bob@example.org吧", "email:bob@example.org"});
}

static void test_email__near_misses(void)
{
    ROWS({"@mention and name@host", ""}, {"pkg@1.2.3", ""}, {"logo@2x.png", ""}, {"a@b.c", ""},
         {"x @ y.org", ""}, {"a@.org", ""}, {"a@", ""}, {"@", ""});
}

static void test_private_key__shapes(void)
{
    ROWS({"a -----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY----- b",
          "private_key:-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----"},
         {"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl",
          "private_key:-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"},
         {"-----BEGIN ENCRYPTED PRIVATE KEY-----", "private_key:-----BEGIN ENCRYPTED PRIVATE KEY-----"},
         {"-----BEGIN EC PRIVATE KEY-----\\nMHc\\n-----END EC PRIVATE KEY-----\\n",
          "private_key:-----BEGIN EC PRIVATE KEY-----\\nMHc\\n-----END EC PRIVATE KEY-----"},
         {"-----BEGIN PGP PRIVATE KEY BLOCK-----\n(x)\n-----END PGP PRIVATE KEY BLOCK-----.",
          "private_key:-----BEGIN PGP PRIVATE KEY BLOCK-----\n(x)\n-----END PGP PRIVATE KEY BLOCK-----"},
         {"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----",
          "private_key:---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"},
         {"-------BEGIN RSA PRIVATE KEY-----", "private_key:-----BEGIN RSA PRIVATE KEY-----"},
         {"-----BEGIN PRIVATE KEY----- -----END CERTIFICATE----- x",
          "private_key:-----BEGIN PRIVATE KEY----- -----END CERTIFICATE----- x"});
}

static void test_private_key__near_misses(void)
{
    ROWS({"-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----", ""},
         {"-----BEGIN CERTIFICATE-----", ""}, {"--BEGIN PRIVATE KEY--", ""},
         {"-----END PRIVATE KEY-----", ""}, {"the PRIVATE KEY of", ""}, {"-----BEGIN PRIVATE KEY", ""},
         {"-----begin private key-----", ""});
}

#define HEX36 "0123456789abcdefghijABCDEFGHIJ012345"

static void test_tokens__shapes(void)
{
    ROWS({"id AKIAIOSFODNN7EXAMPLE.", "aws_key:AKIAIOSFODNN7EXAMPLE"},
         {"ASIAIOSFODNN7EXAMPLE", "aws_key:ASIAIOSFODNN7EXAMPLE"},
         {"aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
          "aws_key:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
         {"\"SecretAccessKey\": \"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\"",
          "aws_key:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
         {"ghp_" HEX36, "github_token:ghp_" HEX36}, {"ghs_" HEX36 ".", "github_token:ghs_" HEX36},
         {"github_ghp_" HEX36, "github_token:ghp_" HEX36},
         {"github_pat_11AAAAAAA0123456789012_abcdefghijklmnopqrstuvwxyz",
          "github_token:github_pat_11AAAAAAA0123456789012_abcdefghijklmnopqrstuvwxyz"},
         {"xoxb-123456789012-abcdef!", "slack_token:xoxb-123456789012-abcdef"},
         {"xapp-1-A0123456789-0123-abc", "slack_token:xapp-1-A0123456789-0123-abc"},
         {"xoxe.xoxp-1-Mi0yLTEyMzQ1", "slack_token:xoxp-1-Mi0yLTEyMzQ1"},
         {"AKIA\u200bIOSFODNN7EXAMPLE", "aws_key:AKIA\u200bIOSFODNN7EXAMPLE"});
}

static void test_tokens__near_misses(void)
{
    ROWS({"AKIAIOSFODNN7EXAMPL", ""}, {"AKIAIOSFODNN7EXAMPLES", ""}, {"XAKIAIOSFODNN7EXAMPLE", ""},
         {"akiaiosfodnn7example", ""}, {"aws_secret_access_key = short", ""},
         {"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""}, {"ghp_short", ""}, {"xghp_" HEX36, ""},
         {"ghx_" HEX36, ""}, {"xoxb-short", ""}, {"xapp-x-A0123456789", ""}, {"github_pat_", ""});
}

#define JWT_HEAD "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"

static void test_jwt__shapes(void)
{
    ROWS({JWT_HEAD ".eyJzdWIiOiIxIn0.c2ln", "jwt:" JWT_HEAD ".eyJzdWIiOiIxIn0.c2ln"},
         {"Bearer " JWT_HEAD ".eyJzdWIiOiIxIn0.c2ln. Then", "jwt:" JWT_HEAD ".eyJzdWIiOiIxIn0.c2ln"},
         {JWT_HEAD "..c2ln", "jwt:" JWT_HEAD "..c2ln"},
         {"eyAiYWxnIiA6ICJub25lIiB9.e30.", "jwt:eyAiYWxnIiA6ICJub25lIiB9.e30"}); /* blanks in the header */
}

/* The least header there is: the scan's first filter once passed over it. */
static void test_jwt__shortest_header(void)
{
    ROWS({"eyJhbGciOiJ9.e", "jwt:eyJhbGciOiJ9.e"}, {"eyJhbGciOn0.e", "jwt:eyJhbGciOn0.e"},
         {"eyJhbGci.e", ""});
}

static void test_jwt__near_misses(void)
{
    ROWS({"eyJ0eXAiOiJKV1QifQ.e30.c2ln", ""}, /* no alg */
         {JWT_HEAD, ""}, {JWT_HEAD ".", ""}, {JWT_HEAD " .x", ""}, {"example.with.dots", ""},
         {"x" JWT_HEAD ".e30.c2ln", ""});
}

static void test_scan__overlapping_findings_are_pieces(void)
{
    static const char text[] = "4111111111111111@example.com";
    struct pol_findings f = {0};

    CHECK_INT(pol_scan(snapshot, scratch, text, strlen(text), &f, NULL), BASE_OK);
    CHECK_INT(f.n, 3);
    CHECK_INT(f.items[0].detector,
              POL_DETECT_EMAIL); /* empty: the card's digits are part of an address too */
    CHECK_INT(f.items[0].end, 0);
    CHECK_INT(f.items[1].detector, POL_DETECT_CARD);
    CHECK_INT(f.items[1].end, 16);
    CHECK_INT(f.items[2].detector, POL_DETECT_EMAIL);
    CHECK_INT(f.items[2].start, 16);
    CHECK_INT(f.items[2].end, strlen(text));
    pol_findings_free(&f);
    CHECK_STR(found("-----BEGIN PRIVATE KEY----- 4111111111111111 x"),
              "private_key:-----BEGIN PRIVATE KEY----- |private_key:4111111111111111|private_key: x");
}

static void test_scan__appends_and_offsets_are_of_this_text(void)
{
    struct pol_findings f = {0};

    CHECK_INT(pol_scan(snapshot, scratch, "a bob@example.org", 17, &f, NULL), BASE_OK);
    CHECK_INT(pol_scan(snapshot, scratch, "eve@example.org", 15, &f, NULL), BASE_OK);
    CHECK_INT(f.n, 2);
    CHECK_INT(f.items[0].start, 2);
    CHECK_INT(f.items[1].start, 0);
    CHECK_INT(f.items[1].end, 15);
    pol_findings_free(&f);
}

static enum pol_class marking_of(const char *text)
{
    struct pol_findings f = {0};
    enum pol_class marking;

    CHECK_INT(pol_scan(snapshot, scratch, text, strlen(text), &f, NULL), BASE_OK);
    marking = f.marking;
    pol_findings_free(&f);
    return marking;
}

static void test_scan__markings_are_whole_words_as_written(void)
{
    CHECK_INT(marking_of("This is CONFIDENTIAL."), POL_CONFIDENTIAL);
    CHECK_INT(marking_of("This is confidential."), POL_CLASS_UNKNOWN);
    CHECK_INT(marking_of("UNCONFIDENTIALLY"), POL_CLASS_UNKNOWN);
    CHECK_INT(marking_of("TOP  \n SECRET and CONFIDENTIAL"), POL_SECRET);
    CHECK_INT(marking_of("TOPSECRET"), POL_CLASS_UNKNOWN);
    CHECK_INT(marking_of("CON\u200bFIDENTIAL"), POL_CONFIDENTIAL);
    CHECK_INT(marking_of("ＣＯＮＦＩＤＥＮＴＩＡＬ"), POL_CONFIDENTIAL);
    CHECK_INT(marking_of(""), POL_CLASS_UNKNOWN);
}

static void test_scan__too_many_findings_are_refused(void)
{
    struct base_buf text = BASE_BUF_INIT(1u << 20);
    struct pol_findings f = {0};
    struct base_err err = {0};

    for (unsigned i = 0; i < POL_FINDINGS_MAX; i++)
        base_buf_append_str(&text, "a@b.org ");
    CHECK_RC(pol_scan(snapshot, scratch, text.data, text.len, &f, &err), BASE_OK, &err);
    CHECK_INT(f.n, POL_FINDINGS_MAX);
    pol_findings_free(&f);
    base_buf_append_str(&text, "a@b.org");
    CHECK_RC(pol_scan(snapshot, scratch, text.data, text.len, &f, &err), BASE_TOO_LARGE, &err);
    pol_findings_free(&f);
    base_buf_free(&text);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_card__networks_and_lengths),
        CASE(test_card__near_misses),
        CASE(test_card__written_in_groups),
        CASE(test_card__among_other_text),
        CASE(test_card__disguised),
        CASE(test_iban__shapes),
        CASE(test_iban__digits_inside_are_no_card),
        CASE(test_iban__near_misses),
        CASE(test_email__shapes),
        CASE(test_email__near_misses),
        CASE(test_private_key__shapes),
        CASE(test_private_key__near_misses),
        CASE(test_tokens__shapes),
        CASE(test_tokens__near_misses),
        CASE(test_jwt__shapes),
        CASE(test_jwt__shortest_header),
        CASE(test_jwt__near_misses),
        CASE(test_scan__overlapping_findings_are_pieces),
        CASE(test_scan__appends_and_offsets_are_of_this_text),
        CASE(test_scan__markings_are_whole_words_as_written),
        CASE(test_scan__too_many_findings_are_refused),
    };
    int status;

    snapshot = help_snapshot();
    scratch = pol_scratch_new();
    status = tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
    pol_scratch_free(scratch);
    pol_unref(snapshot);
    return status;
}

/* Canonical bytes, the chain and sealing: round trips, known answers, and refusals. */
#include "audit/chain.h"
#include "audit/record.h"
#include "audit/seal.h"
#include "base/str.h"
#include "tap.h"

static struct aud_str str(const char *s)
{
    return (struct aud_str){s, (uint32_t)strlen(s)};
}

static struct aud_fields sample(void)
{
    struct aud_fields f = {
        .kind = AUD_OUTCOME, .seq = 7, .wall_us = 1700000000123456, .instance = str("gate-1")};

    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        f.texts[i] = str(aud_text_names[i]);
    f.texts[AUD_T_PEER] = str("");
    f.texts[AUD_T_STATUS] = str("z\xc3\xbcrich");
    f.reasons[0] = str("first");
    f.reasons[1] = str("");
    f.n_reasons = 2;
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        f.numbers[i] = (uint64_t)i * 1000003;
    f.numbers[AUD_U_DURATION_US] = INT64_MAX;
    f.has_key_id = true;
    memset(f.key_id, 0x11, sizeof(f.key_id));
    memset(f.nonce, 0x22, sizeof(f.nonce));
    memset(f.payload_sha256, 0x33, sizeof(f.payload_sha256));
    f.payload_len = 99;
    return f;
}

static void test_record__round_trip(void)
{
    struct aud_fields f = sample(), back;
    struct base_buf one = BASE_BUF_INIT(AUD_CANONICAL_MAX), two = BASE_BUF_INIT(AUD_CANONICAL_MAX);
    struct base_err err;

    CHECK_RC(aud_record_encode(&f, &one, &err), BASE_OK, &err);
    CHECK_RC(aud_record_decode(one.data, one.len, &back, &err), BASE_OK, &err);
    CHECK(back.kind == AUD_OUTCOME && back.seq == 7 && back.wall_us == 1700000000123456 &&
          back.n_reasons == 2);
    CHECK(back.numbers[AUD_U_DURATION_US] == INT64_MAX && back.payload_len == 99);
    CHECK(back.texts[AUD_T_STATUS].len == 7 && memcmp(back.texts[AUD_T_STATUS].at, "z\xc3\xbcrich", 7) == 0);
    CHECK_RC(aud_record_encode(&back, &two, &err), BASE_OK, &err);
    CHECK(one.len == two.len && memcmp(one.data, two.data, one.len) == 0);
    base_buf_free(&one);
    base_buf_free(&two);
}

/* The vector of docs/audit-format.md, computed there by a Python script that knows the document alone. */
static void test_record__known_answer(void)
{
    static const char expected_hex[] =
        "4748415201030000000000000000000000000000000000016100000000000000000000000000000000000000000000000000"
        "000000000000"
        "000000000a6b65792e6372656174650000000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000";
    struct aud_fields f = {.kind = AUD_EVENT, .instance = str("a")};
    struct base_buf out = BASE_BUF_INIT(AUD_CANONICAL_MAX);
    struct aud_hash start = AUD_CHAIN_START, hash;
    char hex[1024], hash_hex[65];
    struct base_err err;

    f.texts[AUD_T_ACTION] = str("key.create");
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_OK, &err);
    base_hex_encode(out.data, out.len, hex);
    hash = aud_chain_link(&start, out.data, out.len);
    base_hex_encode(hash.bytes, sizeof(hash.bytes), hash_hex);
    CHECK_STR(hex, expected_hex);
    CHECK_STR(hash_hex, "06135a861ba83df3827092f8640913fe0b2ca59d6ee16615e127411bebfcb3b8");
    base_buf_free(&out);
}

static void test_record_decode__every_cut_and_every_surplus_is_refused(void)
{
    struct aud_fields f = sample(), back;
    struct base_buf out = BASE_BUF_INIT(AUD_CANONICAL_MAX);
    struct base_err err;

    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_OK, &err);
    for (size_t n = 0; n < out.len; n++) {
        char *exact = base_memdup0(out.data, n); /* so that a sanitizer sees a read past the end */

        CHECK_INT(aud_record_decode(exact, n, &back, NULL), BASE_CORRUPT);
        free(exact);
    }
    base_buf_append_char(&out, 0);
    CHECK_INT(aud_record_decode(out.data, out.len, &back, NULL), BASE_CORRUPT);
    base_buf_free(&out);
}

static void test_record_decode__no_second_spelling(void)
{
    struct aud_fields f = sample();
    struct base_buf out = BASE_BUF_INIT(AUD_CANONICAL_MAX);
    struct base_err err;

    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_OK, &err);
    for (size_t i = 0; i < out.len; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            struct base_buf again = BASE_BUF_INIT(AUD_CANONICAL_MAX);
            struct aud_fields back;

            out.data[i] ^= (char)(1u << bit);
            if (aud_record_decode(out.data, out.len, &back, NULL) == BASE_OK) {
                CHECK_RC(aud_record_encode(&back, &again, &err), BASE_OK, &err);
                CHECK(again.len == out.len && memcmp(again.data, out.data, out.len) == 0);
            }
            base_buf_free(&again);
            out.data[i] ^= (char)(1u << bit);
        }
    }
    out.data[4] = 2;
    CHECK_INT(aud_record_decode(out.data, out.len, &f, NULL), BASE_UNSUPPORTED);
    base_buf_free(&out);
}

static void test_record_encode__limits(void)
{
    char exact[AUD_TEXT_MAX + 2];
    struct aud_fields f = sample();
    struct base_buf out = BASE_BUF_INIT(AUD_CANONICAL_MAX);
    struct base_err err;

    memset(exact, 'x', sizeof(exact));
    f.texts[AUD_T_TENANT] = (struct aud_str){exact, AUD_TEXT_MAX};
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_OK, &err);
    f.texts[AUD_T_TENANT].len++;
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_TOO_LARGE, &err);
    CHECK(strstr(err.detail, "tenant") != NULL);
    f = sample();
    f.texts[AUD_T_TENANT] = str("\xff");
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_INVALID, &err);
    f.texts[AUD_T_TENANT] = (struct aud_str){"a\0b", 3};
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_INVALID, &err);
    f = sample();
    f.numbers[0] = (uint64_t)INT64_MAX + 1;
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_TOO_LARGE, &err);
    f = sample();
    f.instance = str("Gate");
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_INVALID, &err);
    f = sample();
    f.has_key_id = false; /* content that no key opens */
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_INVALID, &err);
    f = sample();
    f.wall_us = AUD_WALL_MAX_US + 1;
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_INVALID, &err);
    base_buf_free(&out);
}

/* The largest record there is fits its limit. */
static void test_record_encode__the_largest_fits(void)
{
    char text[AUD_TEXT_MAX];
    struct aud_fields f = sample();
    struct base_buf out = BASE_BUF_INIT(AUD_CANONICAL_MAX);
    struct base_err err;

    memset(text, 'x', sizeof(text));
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        f.texts[i] = (struct aud_str){text, sizeof(text)};
    f.n_reasons = AUD_REASONS_MAX;
    for (unsigned i = 0; i < AUD_REASONS_MAX; i++)
        f.reasons[i] = (struct aud_str){text, sizeof(text)};
    CHECK_RC(aud_record_encode(&f, &out, &err), BASE_OK, &err);
    base_buf_free(&out);
}

static void test_chain_link__depends_on_both(void)
{
    struct aud_hash a = AUD_CHAIN_START, b = {{1}};
    struct aud_hash one = aud_chain_link(&a, "x", 1), two = aud_chain_link(&b, "x", 1),
                    three = aud_chain_link(&a, "y", 1);

    CHECK(memcmp(&one, &two, sizeof(one)) != 0 && memcmp(&one, &three, sizeof(one)) != 0);
    three = aud_chain_link(&a, "x", 1);
    CHECK(memcmp(&one, &three, sizeof(one)) == 0);
}

/* --- sealing --- */

static struct aud_sealer *sealer(void)
{
    auto_secret struct base_secret *kek = base_secret_new("0123456789abcdef0123456789abcdef", 32);
    auto_secret struct base_secret *pseudonym_key = base_secret_new("fedcba9876543210fedcba9876543210", 32);

    return aud_sealer_new(kek, pseudonym_key, 3);
}

static void test_seal__content_opens_with_its_key_and_context_alone(void)
{
    struct aud_sealer *s = sealer();
    struct aud_fields f = sample(), other, key_fields = {.kind = AUD_PERSON_KEY};
    unsigned char sealed[64], plain[64], wrapped[AUD_WRAPPED_BYTES], key[BASE_GCM_KEY_BYTES];
    const unsigned char *kek = (const unsigned char *)"0123456789abcdef0123456789abcdef";
    struct aud_person *person;
    struct base_err err;
    bool is_new = false;

    person = aud_sealer_person(s, "p3-alice", 1000, &is_new);
    CHECK(is_new);
    f.texts[AUD_T_PSEUDONYM] = str("p3-alice");
    aud_seal_content(person, &f, "a secret", 8, sealed);
    CHECK_INT(f.payload_len, 8 + BASE_GCM_TAG_BYTES);
    CHECK(memmem(sealed, f.payload_len, "secret", 6) == NULL);
    aud_seal_key(s, person, &key_fields, wrapped);
    CHECK_RC(
        aud_open_key(kek, "p3-alice", person->key_id, key_fields.nonce, wrapped, sizeof(wrapped), key, &err),
        BASE_OK, &err);
    CHECK_RC(aud_open_content(key, &f, sealed, f.payload_len, plain, &err), BASE_OK, &err);
    CHECK(memcmp(plain, "a secret", 8) == 0);
    /* each part of the context is bound */
    CHECK_RC(
        aud_open_key(kek, "p3-bob", person->key_id, key_fields.nonce, wrapped, sizeof(wrapped), key, &err),
        BASE_CORRUPT, &err);
    other = f;
    other.texts[AUD_T_REQUEST_ID] = str("another");
    CHECK_RC(aud_open_content(person->key, &other, sealed, f.payload_len, plain, &err), BASE_CORRUPT, &err);
    other = f;
    other.kind = AUD_INTENT;
    CHECK_RC(aud_open_content(person->key, &other, sealed, f.payload_len, plain, &err), BASE_CORRUPT, &err);
    other = f;
    other.instance = str("gate-2");
    CHECK_RC(aud_open_content(person->key, &other, sealed, f.payload_len, plain, &err), BASE_CORRUPT, &err);
    other = f;
    other.texts[AUD_T_PSEUDONYM] = str("p3-bob");
    CHECK_RC(aud_open_content(person->key, &other, sealed, f.payload_len, plain, &err), BASE_CORRUPT, &err);
    sealed[0] ^= 1;
    CHECK_RC(aud_open_content(person->key, &f, sealed, f.payload_len, plain, &err), BASE_CORRUPT, &err);
    aud_sealer_free(s);
}

static void test_sealer_person__one_key_until_it_ages_or_is_forgotten(void)
{
    struct aud_sealer *s = sealer();
    unsigned char id[AUD_KEY_ID_BYTES];
    struct aud_person *person;
    bool is_new = false;

    person = aud_sealer_person(s, "p3-alice", 1000, &is_new);
    CHECK(is_new);
    person->seq = 10;
    memcpy(id, person->key_id, sizeof(id));
    person = aud_sealer_person(s, "p3-alice", 2000, &is_new);
    CHECK(!is_new && memcmp(id, person->key_id, sizeof(id)) == 0);
    aud_sealer_forget_from(s, 11);
    aud_sealer_person(s, "p3-alice", 2000, &is_new);
    CHECK(!is_new);
    aud_sealer_forget_from(s, 10);
    person = aud_sealer_person(s, "p3-alice", 2000, &is_new);
    CHECK(is_new && memcmp(id, person->key_id, sizeof(id)) != 0);
    aud_sealer_person(s, "p3-alice", 2000 + AUD_KEY_LIFE_S * 1000ull, &is_new);
    CHECK(is_new);
    aud_sealer_free(s);
}

static void test_sealer_person__more_people_than_the_cache_holds(void)
{
    struct aud_sealer *s = sealer();
    bool is_new = false;

    for (unsigned i = 0; i < 40000; i++) {
        char name[AUD_PSEUDONYM_MAX];

        snprintf(name, sizeof(name), "p3-%u", i);
        CHECK(strcmp(aud_sealer_person(s, name, 1000, &is_new)->pseudonym, name) == 0);
        CHECK(is_new);
        aud_sealer_person(s, name, 1000, &is_new);
        CHECK(!is_new);
    }
    aud_sealer_free(s);
}

static void test_sealer_pseudonym__is_stable_and_keeps_issuer_and_subject_apart(void)
{
    struct aud_sealer *s = sealer();
    char a[AUD_PSEUDONYM_MAX], b[AUD_PSEUDONYM_MAX];

    aud_sealer_pseudonym(s, "https://idp", "alice", a);
    aud_sealer_pseudonym(s, "https://idp", "alice", b);
    CHECK_STR(a, b);
    CHECK_STR(a, "p3-c89d82a214433ea46c1c01ac41eea684fed53472");
    aud_sealer_pseudonym(s, "https://idpa", "lice", b);
    CHECK(strcmp(a, b) != 0);
    aud_sealer_free(s);
}

static void test_seal_mapping__opens_to_issuer_and_subject(void)
{
    struct aud_sealer *s = sealer();
    struct aud_fields f = {.kind = AUD_MAPPING};
    unsigned char sealed[AUD_MAPPING_SEALED_MAX];
    struct aud_mapping mapping;
    char longest[AUD_TEXT_MAX + 1];
    struct base_err err;

    memset(longest, 'y', AUD_TEXT_MAX);
    longest[AUD_TEXT_MAX] = '\0';
    f.texts[AUD_T_PSEUDONYM] = str("p3-alice");
    aud_seal_mapping(s, &f, longest, longest, sealed);
    CHECK_RC(aud_open_mapping(s, &f, sealed, f.payload_len, &mapping, &err), BASE_OK, &err);
    CHECK(strcmp(mapping.issuer, longest) == 0 && strcmp(mapping.subject, longest) == 0);
    f.texts[AUD_T_PSEUDONYM] = str("p3-bob");
    CHECK_RC(aud_open_mapping(s, &f, sealed, f.payload_len, &mapping, &err), BASE_CORRUPT, &err);
    aud_sealer_free(s);
}

static const struct tap_case cases[] = {
    CASE(test_record__round_trip),
    CASE(test_record__known_answer),
    CASE(test_record_decode__every_cut_and_every_surplus_is_refused),
    CASE(test_record_decode__no_second_spelling),
    CASE(test_record_encode__limits),
    CASE(test_record_encode__the_largest_fits),
    CASE(test_chain_link__depends_on_both),
    CASE(test_seal__content_opens_with_its_key_and_context_alone),
    CASE(test_sealer_person__one_key_until_it_ages_or_is_forgotten),
    CASE(test_sealer_person__more_people_than_the_cache_holds),
    CASE(test_sealer_pseudonym__is_stable_and_keeps_issuer_and_subject_apart),
    CASE(test_seal_mapping__opens_to_issuer_and_subject),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}

/* Typed reads of GGUF metadata: see modelfile_gguf.h. Everything here relies on the parse: a value lies wholly inside the file. */
#include "engine/modelfile_gguf.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* An integer of any width, sign-extended; false for other types. */
static bool load_integer(enum eng_gguf_type type, const uint8_t *p, int64_t *ret_value)
{
    static const uint8_t bytes[] = {
        [ENG_GGUF_U8] = 1,  [ENG_GGUF_I8] = 1,  [ENG_GGUF_U16] = 2, [ENG_GGUF_I16] = 2,
        [ENG_GGUF_U32] = 4, [ENG_GGUF_I32] = 4, [ENG_GGUF_U64] = 8, [ENG_GGUF_I64] = 8};
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v = {0};

    if (type >= BASE_ARRAY_LEN(bytes))
        return false;
    memcpy(&v, p, bytes[type]);
    switch (type) {
    case ENG_GGUF_U8: *ret_value = v.u8; return true;
    case ENG_GGUF_I8: *ret_value = v.i8; return true;
    case ENG_GGUF_U16: *ret_value = v.u16; return true;
    case ENG_GGUF_I16: *ret_value = v.i16; return true;
    case ENG_GGUF_U32: *ret_value = v.u32; return true;
    case ENG_GGUF_I32: *ret_value = v.i32; return true;
    case ENG_GGUF_I64: *ret_value = v.i64; return true;
    case ENG_GGUF_U64: *ret_value = v.u64 <= INT64_MAX ? (int64_t)v.u64 : -1; return true;
    default: return false;
    }
}

enum base_code eng_gguf_get_u64(const struct eng_gguf *gguf, const char *key, uint64_t max,
                                uint64_t *ret_value, struct base_err *err)
{
    const struct eng_gguf_kv *kv = eng_gguf_find(gguf, key);
    int64_t v;

    if (kv == NULL)
        return BASE_NOT_FOUND;
    if (!load_integer(kv->type, kv->value, &v))
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no integer", key);
    if (v < 0 || (uint64_t)v > max)
        return base_fail(err, BASE_INVALID, 0, "metadata %s: %lld is out of range (0 to %llu)", key,
                         (long long)v, (unsigned long long)max);
    *ret_value = (uint64_t)v;
    return BASE_OK;
}

enum base_code eng_gguf_get_f64(const struct eng_gguf *gguf, const char *key, double *ret_value,
                                struct base_err *err)
{
    const struct eng_gguf_kv *kv = eng_gguf_find(gguf, key);
    float f;
    double d;

    if (kv == NULL)
        return BASE_NOT_FOUND;
    if (kv->type == ENG_GGUF_F32) {
        memcpy(&f, kv->value, sizeof(f));
        d = f;
    } else if (kv->type == ENG_GGUF_F64)
        memcpy(&d, kv->value, sizeof(d));
    else
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no floating-point number", key);
    if (!(d >= -1e30 && d <= 1e30))
        return base_fail(err, BASE_INVALID, 0, "metadata %s is not a finite number", key);
    *ret_value = d;
    return BASE_OK;
}

enum base_code eng_gguf_get_bool(const struct eng_gguf *gguf, const char *key, bool *ret_value,
                                 struct base_err *err)
{
    const struct eng_gguf_kv *kv = eng_gguf_find(gguf, key);

    if (kv == NULL)
        return BASE_NOT_FOUND;
    if (kv->type != ENG_GGUF_BOOL || kv->value[0] > 1)
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no boolean", key);
    *ret_value = kv->value[0] != 0;
    return BASE_OK;
}

enum base_code eng_gguf_get_str(const struct eng_gguf *gguf, const char *key, struct eng_str *ret_value,
                                struct base_err *err)
{
    const struct eng_gguf_kv *kv = eng_gguf_find(gguf, key);
    uint64_t n;

    if (kv == NULL)
        return BASE_NOT_FOUND;
    if (kv->type != ENG_GGUF_STRING)
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no string", key);
    memcpy(&n, kv->value, sizeof(n));
    *ret_value = (struct eng_str){(const char *)kv->value + 8, (size_t)n};
    return BASE_OK;
}

enum base_code eng_gguf_get_strings(const struct eng_gguf *gguf, const char *key, uint64_t max_n,
                                    struct eng_str **ret_strings, uint32_t *ret_n, struct base_err *err)
{
    const struct eng_gguf_kv *kv = eng_gguf_find(gguf, key);
    struct eng_str *strings;
    const uint8_t *p;

    if (kv == NULL)
        return BASE_NOT_FOUND;
    if (kv->type != ENG_GGUF_ARRAY || kv->elem_type != ENG_GGUF_STRING)
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no array of strings", key);
    if (kv->n > max_n || kv->n > UINT32_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "metadata %s has %llu elements, limit %llu", key,
                         (unsigned long long)kv->n, (unsigned long long)max_n);
    strings = base_try_zarray(kv->n + 1, sizeof(*strings));
    if (strings == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for metadata %s", key);
    p = kv->value;
    for (uint64_t i = 0; i < kv->n; i++) {
        uint64_t n;

        memcpy(&n, p, sizeof(n));
        strings[i] = (struct eng_str){(const char *)p + 8, (size_t)n};
        p += 8 + n;
    }
    *ret_strings = strings;
    *ret_n = (uint32_t)kv->n;
    return BASE_OK;
}

static enum base_code find_array(const struct eng_gguf *gguf, const char *key, uint64_t n,
                                 const struct eng_gguf_kv **ret_kv, struct base_err *err)
{
    const struct eng_gguf_kv *kv = eng_gguf_find(gguf, key);

    if (kv == NULL)
        return BASE_NOT_FOUND;
    if (kv->type != ENG_GGUF_ARRAY || kv->n != n)
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no array of %llu elements", key,
                         (unsigned long long)n);
    *ret_kv = kv;
    return BASE_OK;
}

enum base_code eng_gguf_get_f32s(const struct eng_gguf *gguf, const char *key, uint64_t n, float **ret_values,
                                 struct base_err *err)
{
    const struct eng_gguf_kv *kv = NULL;
    float *values;
    enum base_code rc = find_array(gguf, key, n, &kv, err);

    if (rc != BASE_OK)
        return rc;
    if (kv->elem_type != ENG_GGUF_F32)
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no array of F32", key);
    values = base_try_zarray(n + 1, sizeof(*values));
    if (values == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for metadata %s", key);
    memcpy(values, kv->value, n * sizeof(*values));
    *ret_values = values;
    return BASE_OK;
}

enum base_code eng_gguf_get_i32s(const struct eng_gguf *gguf, const char *key, uint64_t n,
                                 int32_t **ret_values, struct base_err *err)
{
    const struct eng_gguf_kv *kv = NULL;
    int32_t *values;
    enum base_code rc = find_array(gguf, key, n, &kv, err);

    if (rc != BASE_OK)
        return rc;
    if (kv->elem_type != ENG_GGUF_I32 && kv->elem_type != ENG_GGUF_U32)
        return base_fail(err, BASE_INVALID, 0, "metadata %s is no array of I32", key);
    values = base_try_zarray(n + 1, sizeof(*values));
    if (values == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for metadata %s", key);
    memcpy(values, kv->value, n * sizeof(*values));
    *ret_values = values;
    return BASE_OK;
}

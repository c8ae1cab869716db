/* GGUF model files: metadata and tensor directory, kept in memory; tensors, read when asked for. Private to engine/.
 *
 * What: parses GGUF versions 2 and 3 from a file or from memory. A file is read, never mapped: one that is cut short or rewritten while
 *       it is in use gives an error or other numbers, where a mapping would end the process (SIGBUS) or change what was checked.
 * Who:  one thread parses and closes; any thread reads after that.
 * Promises: the bytes are hostile. Every count, length, type, dimension, offset, alignment and overlap is checked before it is
 *           used, duplicates are refused, and an error names the key or tensor at fault. Nothing is copied but directories.
 * Limits: ENG_GGUF_*_MAX below.
 * Not here: what the keys mean (model.h).
 * Source: the GGUF specification, ggml/docs/gguf.md.
 */
#ifndef ENGINE_MODELFILE_GGUF_H
#define ENGINE_MODELFILE_GGUF_H

#include "base/err.h"
#include "engine/quant.h"
#include "engine/tokenizer.h"

#define ENG_GGUF_KEYS_MAX      65536u
#define ENG_GGUF_KEY_BYTES_MAX 256u
#define ENG_GGUF_TENSORS_MAX   65536u
#define ENG_GGUF_NAME_MAX      128u       /* bytes of a tensor name */
#define ENG_GGUF_STRING_MAX    (1u << 20) /* bytes of one string value */
#define ENG_GGUF_ARRAY_MAX     (1u << 24) /* elements of one array */
#define ENG_GGUF_DIMS_MAX      4u
#define ENG_GGUF_ALIGN_MAX     65536u
#define ENG_GGUF_DIM_MAX       (1ull << 40)
#define ENG_GGUF_DIRECTORY_MAX (512u << 20) /* bytes of a file before its tensors */

enum eng_gguf_type {
    ENG_GGUF_U8 = 0,
    ENG_GGUF_I8,
    ENG_GGUF_U16,
    ENG_GGUF_I16,
    ENG_GGUF_U32,
    ENG_GGUF_I32,
    ENG_GGUF_F32,
    ENG_GGUF_BOOL,
    ENG_GGUF_STRING,
    ENG_GGUF_ARRAY,
    ENG_GGUF_U64,
    ENG_GGUF_I64,
    ENG_GGUF_F64
};

struct eng_gguf_kv {
    struct eng_str key;
    enum eng_gguf_type type;      /* of the value */
    enum eng_gguf_type elem_type; /* of an array's elements */
    uint64_t n;                   /* elements of an array; 1 otherwise */
    const uint8_t *value;         /* the value, or the first element; not aligned */
};

struct eng_gguf_tensor {
    struct eng_str name;
    enum eng_type type;
    uint32_t n_dims;
    uint64_t dims[ENG_GGUF_DIMS_MAX]; /* dims[0] is the row length; unused ones are 1 */
    uint64_t offset, n_bytes;         /* of its data in the file */
};

struct eng_gguf;

/* `bytes` are borrowed for the object's life. BASE_INVALID, BASE_TOO_LARGE (a limit above) or BASE_UNSUPPORTED (version, tensor type). */
enum base_code eng_gguf_parse(struct eng_gguf **ret_gguf, const void *bytes, size_t len,
                              struct base_err *err);
enum base_code eng_gguf_open(struct eng_gguf **ret_gguf, const char *path, struct base_err *err);
void eng_gguf_free(struct eng_gguf *gguf); /* NULL is allowed */

/* A tensor's data to out [n_bytes]. BASE_IO, or BASE_CORRUPT when the file is shorter than it was. */
enum base_code eng_gguf_read(const struct eng_gguf *gguf, const struct eng_gguf_tensor *tensor, void *out,
                             struct base_err *err);
/* Closes the file: no tensor is read after this (BASE_UNAVAILABLE); the directory stays. Does nothing for bytes in memory. */
void eng_gguf_close_file(struct eng_gguf *gguf);

uint64_t eng_gguf_file_bytes(const struct eng_gguf *gguf);
size_t eng_gguf_n_kv(const struct eng_gguf *gguf);
const struct eng_gguf_kv *eng_gguf_kv_at(const struct eng_gguf *gguf, size_t i);
size_t eng_gguf_n_tensors(const struct eng_gguf *gguf);
const struct eng_gguf_tensor *eng_gguf_tensor_at(const struct eng_gguf *gguf, size_t i);

/* NULL when absent. */
const struct eng_gguf_kv *eng_gguf_find(const struct eng_gguf *gguf, const char *key);
const struct eng_gguf_tensor *eng_gguf_tensor(const struct eng_gguf *gguf, const char *name);

/* Typed reads. BASE_NOT_FOUND when the key is absent (`err` untouched), BASE_INVALID when it has another type or range.
 * An unsigned read takes any integer type whose value is not negative; a float read takes F32 and F64. */
enum base_code eng_gguf_get_u64(const struct eng_gguf *gguf, const char *key, uint64_t max,
                                uint64_t *ret_value, struct base_err *err);
enum base_code eng_gguf_get_f64(const struct eng_gguf *gguf, const char *key, double *ret_value,
                                struct base_err *err);
enum base_code eng_gguf_get_bool(const struct eng_gguf *gguf, const char *key, bool *ret_value,
                                 struct base_err *err);
enum base_code eng_gguf_get_str(const struct eng_gguf *gguf, const char *key, struct eng_str *ret_value,
                                struct base_err *err);

/* All elements of an array of strings, in a block to free(). */
enum base_code eng_gguf_get_strings(const struct eng_gguf *gguf, const char *key, uint64_t max_n,
                                    struct eng_str **ret_strings, uint32_t *ret_n, struct base_err *err);
/* An array of F32 or I32 (also U32 whose values fit) copied to aligned memory, to free(). It must have exactly n elements. */
enum base_code eng_gguf_get_f32s(const struct eng_gguf *gguf, const char *key, uint64_t n, float **ret_values,
                                 struct base_err *err);
enum base_code eng_gguf_get_i32s(const struct eng_gguf *gguf, const char *key, uint64_t n,
                                 int32_t **ret_values, struct base_err *err);

#endif

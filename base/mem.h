/* Memory: allocation and scope cleanup.
 *
 * What: base_alloc and friends for sizes that our own code chose (they end the process when memory is gone: a small
 *       fixed allocation that fails leaves nothing sensible to do), base_try_* for sizes that an outsider chose,
 *       after a check against a named limit (they return NULL).
 * Who:  every folder, any thread.
 * Not here: secrets (secret.h wipes them), per-call memory (arena.h).
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define BASE_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Never NULL; freed with free(). */
void *base_alloc(size_t size) __attribute__((malloc, returns_nonnull));
void *base_zalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *base_realloc(void *p, size_t size) __attribute__((returns_nonnull));
char *base_strdup(const char *s) __attribute__((malloc, returns_nonnull));
/* Copies n bytes and ends them with a NUL, whatever they hold. */
char *base_memdup0(const void *p, size_t n) __attribute__((malloc, returns_nonnull));

/* n * size zeroed bytes; NULL when the product overflows or memory is gone. */
void *base_try_zarray(size_t n, size_t size) __attribute__((malloc));

/* Scope cleanup (gcc/clang): `auto_free char *s = ...;` is freed when s leaves its scope.
 * BASE_AUTO defines auto_<name> support for a type with a destructor that takes a pointer:
 *     BASE_AUTO(struct pol_rules *, pol_rules_free)
 *     #define auto_rules __attribute__((cleanup(pol_rules_free_cleanup)))
 */
static inline void base_free_cleanup(void *pp)
{
    free(*(void **)pp);
}
#define auto_free __attribute__((cleanup(base_free_cleanup)))

#define BASE_AUTO(type, destroy)                   \
    static inline void destroy##_cleanup(type *pp) \
    {                                              \
        if (*pp != NULL)                           \
            destroy(*pp);                          \
    }

/* Moves a pointer out of a scope-cleaned variable. */
#define TAKE(p)                     \
    ({                              \
        __typeof__(p) taken_ = (p); \
        (p) = NULL;                 \
        taken_;                     \
    })

#endif

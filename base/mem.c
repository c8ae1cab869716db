/* Memory: allocation that cannot fail, and one that may. See mem.h. */
#include "base/mem.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

static void out_of_memory(void)
{
    static const char text[] = "gatehouse: out of memory\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);

    (void)n;
    abort();
}

void *base_alloc(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);

    if (p == NULL)
        out_of_memory();
    return p;
}

void *base_zalloc(size_t size)
{
    void *p = calloc(1, size > 0 ? size : 1);

    if (p == NULL)
        out_of_memory();
    return p;
}

void *base_realloc(void *p, size_t size)
{
    void *q = realloc(p, size > 0 ? size : 1);

    if (q == NULL)
        out_of_memory();
    return q;
}

char *base_strdup(const char *s)
{
    return base_memdup0(s, strlen(s));
}

char *base_memdup0(const void *p, size_t n)
{
    char *copy = base_alloc(n + 1);

    if (n > 0)
        memcpy(copy, p, n);
    copy[n] = '\0';
    return copy;
}

void *base_try_zarray(size_t n, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total) || total > PTRDIFF_MAX)
        return NULL;
    return calloc(total > 0 ? total : 1, 1);
}

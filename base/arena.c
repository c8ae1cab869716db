/* Arena: chained blocks, freed together. See arena.h. */
#include "base/arena.h"

#include "base/mem.h"
#include "base/secret.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BLOCK_BYTES 4096u

struct block {
    struct block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char data[];
};

struct base_arena {
    atomic_int refs;
    size_t max, total;
    struct block *head;
    bool wipe;
};

struct base_arena *base_arena_new(size_t max_bytes)
{
    struct base_arena *arena = base_zalloc(sizeof(*arena));

    atomic_init(&arena->refs, 1);
    arena->max = max_bytes;
    return arena;
}

struct base_arena *base_arena_ref(struct base_arena *arena)
{
    atomic_fetch_add_explicit(&arena->refs, 1, memory_order_relaxed);
    return arena;
}

void base_arena_unref(struct base_arena *arena)
{
    if (arena == NULL || atomic_fetch_sub_explicit(&arena->refs, 1, memory_order_acq_rel) != 1)
        return;
    while (arena->head != NULL) {
        struct block *next = arena->head->next;

        if (arena->wipe)
            base_wipe(arena->head->data, arena->head->used);
        free(arena->head);
        arena->head = next;
    }
    free(arena);
}

void base_arena_wipe_on_free(struct base_arena *arena)
{
    arena->wipe = true;
}

void *base_arena_alloc(struct base_arena *arena, size_t size)
{
    const size_t align = _Alignof(max_align_t);
    struct block *block = arena->head;
    void *p;

    if (size > arena->max)
        return NULL;
    size = (size + align - 1) & ~(align - 1);
    if (size > arena->max - arena->total)
        return NULL;
    if (block == NULL || block->size - block->used < size) {
        size_t want = size > BLOCK_BYTES ? size : BLOCK_BYTES;

        block = base_try_zarray(1, sizeof(*block) + want);
        if (block == NULL)
            return NULL;
        block->size = want;
        block->next = arena->head;
        arena->head = block;
    }
    p = block->data + block->used;
    block->used += size;
    arena->total += size;
    return p;
}

char *base_arena_dup(struct base_arena *arena, const void *bytes, size_t n)
{
    char *copy;

    if (n == SIZE_MAX)
        return NULL;
    copy = base_arena_alloc(arena, n + 1);
    if (copy != NULL && n > 0)
        memcpy(copy, bytes, n);
    return copy;
}

size_t base_arena_used(const struct base_arena *arena)
{
    return arena->total;
}

/* Arena: the memory of one call.
 *
 * What: bump allocation with one limit, freed at once. Reference counted, so that a call's bytes outlive the client's
 *       connection for as long as another thread (engine, audit) still reads them.
 * Who:  allocation by one thread at a time; ref/unref from any thread.
 * Promises: memory is zeroed, aligned for any type; past the limit NULL, never less than asked.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct base_arena;

struct base_arena *base_arena_new(size_t max_bytes);
struct base_arena *base_arena_ref(struct base_arena *arena);
void base_arena_unref(struct base_arena *arena); /* NULL is allowed */

/* From now on what it holds is wiped before the memory is given back: for prompts and the like. */
void base_arena_wipe_on_free(struct base_arena *arena);

/* NULL when the arena's limit would be passed. */
void *base_arena_alloc(struct base_arena *arena, size_t size);
/* n bytes and a NUL. */
char *base_arena_dup(struct base_arena *arena, const void *bytes, size_t n);

size_t base_arena_used(const struct base_arena *arena);

#endif

/* Runs a fuzz target over every file of its corpus folder, then over cut and flipped variants of each: what a fuzzer found once
 * stays a test. Prints TAP. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FILE_MAX (1u << 20)
#define VARIANTS 64u

/* A private copy of exact size, so that a sanitizer sees a read past the end. */
static void run_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void run_variants(uint8_t *data, size_t size)
{
    uint64_t state = 0x9e3779b97f4a7c15u ^ size;

    run_copy(data, size);
    for (unsigned i = 0; i < VARIANTS && size > 0; i++) {
        size_t at;
        uint8_t kept;

        state = state * 6364136223846793005u + 1442695040888963407u;
        at = (size_t)(state >> 33) % size;
        kept = data[at];
        data[at] ^= (uint8_t)(1u << (state >> 30 & 7));
        run_copy(data, size);
        data[at] = kept;
        run_copy(data, at);
    }
}

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data;
    size_t size;

    if (f == NULL)
        return -1;
    data = malloc(FILE_MAX);
    if (data == NULL)
        abort();
    size = fread(data, 1, FILE_MAX, f);
    fclose(f);
    run_variants(data, size);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
    struct dirent *entry;
    unsigned n = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (dir == NULL) {
        printf("1..1\nnot ok 1 - corpus folder %s cannot be read\n", argc > 1 ? argv[1] : "(none given)");
        return 1;
    }
    while ((entry = readdir(dir)) != NULL) {
        char path[4096];
        struct stat st;

        snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
        if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
            continue;
        n++;
        printf("%s %u - %s\n", run_file(path) == 0 ? "ok" : "not ok", n, entry->d_name);
    }
    closedir(dir);
    printf("1..%u\n", n > 0 ? n : 1);
    if (n == 0)
        printf("not ok 1 - the corpus %s is empty\n", argv[1]);
    return n == 0;
}

/* Test helper: a small JSON reader for reference files that the tests trust. One node list, walked by `next`.
 */
#ifndef TESTS_JSON_LITE_H
#define TESTS_JSON_LITE_H

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum json_kind { JSON_NULL, JSON_BOOL, JSON_INT, JSON_FLOAT, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_kind kind;
    char *key; /* inside an object */
    char *s;   /* STRING */
    size_t n;  /* STRING: bytes; ARRAY, OBJECT: entries */
    int64_t i; /* INT, BOOL */
    double f;  /* FLOAT */
    struct json *first, *next;
};

static struct json *json_value(const char **p);

static void json_blank(const char **p)
{
    while (**p == ' ' || **p == '\n' || **p == '\t' || **p == '\r')
        (*p)++;
}

static unsigned json_hex4(const char *p)
{
    char four[5] = {p[0], p[1], p[2], p[3], 0};

    return (unsigned)strtoul(four, NULL, 16);
}

static char *json_text(const char **p, size_t *ret_n)
{
    const char *end = *p + 1;
    char *out, *o;

    while (*end != '"')
        end += *end == '\\' ? 2 : 1;
    out = o = malloc((size_t)(end - *p) * 2 + 4);
    for (const char *q = *p + 1; q < end; q++) {
        static const char from[] = "nrtbf\"\\/", to[] = "\n\r\t\b\f\"\\/";

        if (*q != '\\') {
            *o++ = *q;
            continue;
        }
        q++;
        if (*q == 'u') {
            unsigned c = json_hex4(q + 1);

            q += 4;
            if (c >= 0xd800 && c < 0xdc00) {
                c = 0x10000 + ((c - 0xd800) << 10) + (json_hex4(q + 3) - 0xdc00);
                q += 6;
            }
            if (c < 0x80)
                *o++ = (char)c;
            else if (c < 0x800) {
                *o++ = (char)(0xc0 | c >> 6);
                *o++ = (char)(0x80 | (c & 63));
            } else if (c < 0x10000) {
                *o++ = (char)(0xe0 | c >> 12);
                *o++ = (char)(0x80 | (c >> 6 & 63));
                *o++ = (char)(0x80 | (c & 63));
            } else {
                *o++ = (char)(0xf0 | c >> 18);
                *o++ = (char)(0x80 | (c >> 12 & 63));
                *o++ = (char)(0x80 | (c >> 6 & 63));
                *o++ = (char)(0x80 | (c & 63));
            }
        } else
            *o++ = to[strchr(from, *q) - from];
    }
    *o = '\0';
    *ret_n = (size_t)(o - out);
    *p = end + 1;
    return out;
}

static void json_members(struct json *v, const char **p, char close)
{
    struct json **tail = &v->first;

    (*p)++;
    for (json_blank(p); **p != close; json_blank(p)) {
        char *key = NULL;
        size_t n;

        if (close == '}') {
            key = json_text(p, &n);
            json_blank(p);
            (*p)++; /* ':' */
        }
        *tail = json_value(p);
        (*tail)->key = key;
        tail = &(*tail)->next;
        v->n++;
        json_blank(p);
        if (**p == ',')
            (*p)++;
    }
    (*p)++;
}

static struct json *json_value(const char **p)
{
    struct json *v = calloc(1, sizeof(*v));

    json_blank(p);
    if (**p == '"') {
        v->kind = JSON_STRING;
        v->s = json_text(p, &v->n);
    } else if (**p == '[') {
        v->kind = JSON_ARRAY;
        json_members(v, p, ']');
    } else if (**p == '{') {
        v->kind = JSON_OBJECT;
        json_members(v, p, '}');
    } else if (isalpha((unsigned char)**p)) {
        v->kind = **p == 'n' ? JSON_NULL : JSON_BOOL;
        v->i = **p == 't';
        *p += **p == 'f' ? 5 : 4;
    } else {
        char *end;
        size_t len;

        v->i = strtoll(*p, &end, 10);
        v->kind = *end == '.' || *end == 'e' || *end == 'E' ? JSON_FLOAT : JSON_INT;
        v->f = strtod(*p, &end);
        len = (size_t)(end - *p);
        *p += len;
    }
    return v;
}

__attribute__((unused)) static void json_free(struct json *v)
{
    while (v != NULL) {
        struct json *next = v->next;

        json_free(v->first);
        free(v->key);
        free(v->s);
        free(v);
        v = next;
    }
}

__attribute__((unused)) static struct json *json_get(const struct json *object, const char *key)
{
    for (struct json *v = object != NULL ? object->first : NULL; v != NULL; v = v->next)
        if (v->key != NULL && strcmp(v->key, key) == 0)
            return v;
    return NULL;
}

/* The bytes of a file with a NUL after them; NULL when it is not there. */
__attribute__((unused)) static char *json_slurp(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    char *bytes;
    long size;

    if (f == NULL)
        return NULL;
    fseek(f, 0, SEEK_END);
    size = ftell(f);
    rewind(f);
    bytes = malloc((size_t)size + 1);
    *ret_n = fread(bytes, 1, (size_t)size, f);
    bytes[*ret_n] = '\0';
    fclose(f);
    return bytes;
}

#endif

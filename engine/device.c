/* Devices: see device.h. */
#include "engine/device.h"

#include "base/mem.h"
#include "base/str.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PLUGIN_FILE "libgatehouse-cuda.so"

/* One plug-in a process. */
static struct {
    pthread_mutex_t mutex;
    char wanted[PATH_MAX]; /* empty: the usual places */
    bool tried;
    const struct eng_plugin *plugin; /* NULL: err says why */
    struct base_err err;
} opened = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void eng_use_plugin(const char *path)
{
    pthread_mutex_lock(&opened.mutex);
    snprintf(opened.wanted, sizeof(opened.wanted), "%s", path);
    pthread_mutex_unlock(&opened.mutex);
}

static enum base_code check_plugin(const struct eng_plugin *p, const char *path, struct base_err *err)
{
    if (p->abi != ENG_PLUGIN_ABI || p->table_bytes != sizeof(struct eng_ops))
        return base_fail(err, BASE_UNSUPPORTED, 0,
                         "%s has interface %u, this program wants %u: install both from the same build", path,
                         p->abi, ENG_PLUGIN_ABI);
    if (p->version == NULL || strcmp(p->version, GH_VERSION) != 0)
        return base_fail(err, BASE_UNSUPPORTED, 0,
                         "%s is of version %.32s, this program of %s: install both from the same build", path,
                         p->version != NULL ? p->version : "?", GH_VERSION);
    return BASE_OK;
}

static enum base_code open_at(const char *path, struct base_err *err)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    eng_plugin_fn *describe;
    const struct eng_plugin *plugin;
    enum base_code rc;

    if (library == NULL)
        return base_fail(err, BASE_UNAVAILABLE, 0, "%s", dlerror());
    describe = (eng_plugin_fn *)dlsym(library, ENG_PLUGIN_SYMBOL);
    if (describe == NULL || (plugin = describe()) == NULL) {
        dlclose(library);
        return base_fail(err, BASE_UNSUPPORTED, 0, "%s is no plug-in of Gatehouse", path);
    }
    rc = check_plugin(plugin, path, err);
    if (rc != BASE_OK) {
        dlclose(library);
        return rc;
    }
    opened.plugin = plugin;
    return BASE_OK;
}

/* Beside the program as it was built, beside it as it was installed, where it was told to be installed. */
static bool usual_place(char *out, size_t out_bytes)
{
    static const char *const beside[] = {"../engine/cuda/" PLUGIN_FILE, "engine/cuda/" PLUGIN_FILE,
                                         "cuda/" PLUGIN_FILE, "../lib/gatehouse/" PLUGIN_FILE};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    self[n > 0 ? n : 0] = '\0';
    slash = strrchr(self, '/');
    for (size_t i = 0; slash != NULL && i < BASE_ARRAY_LEN(beside); i++) {
        int len = snprintf(out, out_bytes, "%.*s/%s", (int)(slash - self), self, beside[i]);

        if (len > 0 && (size_t)len < out_bytes && access(out, R_OK) == 0)
            return true;
    }
    snprintf(out, out_bytes, "%s/%s", GH_PLUGIN_DIR, PLUGIN_FILE);
    return access(out, R_OK) == 0;
}

/* Under the mutex. */
static void open_once(void)
{
    char path[PATH_MAX];

    opened.tried = true;
    if (opened.wanted[0] != '\0')
        open_at(opened.wanted, &opened.err);
    else if (usual_place(path, sizeof(path)))
        open_at(path, &opened.err);
    else
        base_fail(&opened.err, BASE_NOT_FOUND, 0,
                  "this build has no CUDA plug-in (%s): it is built where nvcc is found", PLUGIN_FILE);
}

static enum base_code get_plugin(const struct eng_plugin **ret_plugin, struct base_err *err)
{
    enum base_code rc = BASE_OK;

    pthread_mutex_lock(&opened.mutex);
    if (!opened.tried)
        open_once();
    if (opened.plugin == NULL)
        rc = base_fail(err, opened.err.code, 0, "%s", opened.err.detail);
    else
        *ret_plugin = opened.plugin;
    pthread_mutex_unlock(&opened.mutex);
    return rc;
}

enum base_code eng_device_list(struct eng_device_info *out, unsigned *ret_n, struct base_err *err)
{
    const struct eng_plugin *plugin = NULL;
    enum base_code rc = get_plugin(&plugin, err);

    return rc == BASE_OK ? plugin->devices(out, ret_n, err) : rc;
}

enum base_code eng_device_cpu(struct eng_device_pick *ret_pick, const char *kernels, struct base_err *err)
{
    const struct eng_ops *ops = eng_ops_cpu(kernels);

    if (ops == NULL)
        return base_fail(err, BASE_UNSUPPORTED, 0, "this machine has no kernels called \"%s\"", kernels);
    *ret_pick = (struct eng_device_pick){.ops = ops,
                                         .is_cpu = true,
                                         .free_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) *
                                                       (uint64_t)sysconf(_SC_PAGESIZE),
                                         .name = "CPU"};
    return BASE_OK;
}

/* index UINT_MAX: the usable one with most free memory. */
static enum base_code pick_cuda(struct eng_device_pick *ret_pick, unsigned index, struct base_err *err)
{
    const struct eng_plugin *plugin = NULL;
    struct eng_device_info infos[ENG_DEVICES_MAX];
    const struct eng_device_info *best = NULL, *unusable = NULL;
    unsigned n = 0;
    enum base_code rc = get_plugin(&plugin, err);

    if (rc != BASE_OK || (rc = plugin->devices(infos, &n, err)) != BASE_OK)
        return rc;
    for (unsigned i = 0; i < n; i++) {
        if (index != UINT_MAX && infos[i].index != index)
            continue;
        if (!infos[i].usable)
            unusable = &infos[i];
        else if (best == NULL || infos[i].free_bytes > best->free_bytes)
            best = &infos[i];
    }
    if (best == NULL && unusable != NULL)
        return base_fail(err, BASE_UNAVAILABLE, 0, "%s: %.200s", unusable->name, unusable->why);
    if (best == NULL && index != UINT_MAX)
        return base_fail(err, BASE_UNAVAILABLE, 0, "there is no CUDA device %u: the driver shows %u", index,
                         n);
    if (best == NULL)
        return base_fail(err, BASE_UNAVAILABLE, 0, "the driver shows no CUDA device");
    *ret_pick = (struct eng_device_pick){
        .ops = plugin->ops, .plugin = plugin, .index = best->index, .free_bytes = best->free_bytes};
    memcpy(ret_pick->name, best->name, sizeof(ret_pick->name));
    return BASE_OK;
}

enum base_code eng_device_pick(struct eng_device_pick *ret_pick, const char *want, const char *kernels,
                               struct base_err *err)
{
    bool automatic = want == NULL || strcmp(want, "auto") == 0;
    struct base_err why;
    uint64_t index = UINT_MAX;

    if (!automatic && strcmp(want, "cpu") == 0)
        return eng_device_cpu(ret_pick, kernels, err);
    if (!automatic && strcmp(want, "cuda") != 0 &&
        (strncmp(want, "cuda:", 5) != 0 ||
         base_parse_u64(want + 5, strlen(want + 5), ENG_DEVICES_MAX - 1, &index) != BASE_OK))
        return base_fail(err, BASE_INVALID, 0,
                         "device \"%.40s\" is none of auto, cpu, cuda and cuda:0 to cuda:%u", want,
                         ENG_DEVICES_MAX - 1);
    if (!automatic)
        return pick_cuda(ret_pick, (unsigned)index, err);
    if (pick_cuda(ret_pick, UINT_MAX, &why) == BASE_OK)
        return BASE_OK;
    if (eng_device_cpu(ret_pick, kernels, err) != BASE_OK)
        return err != NULL ? err->code : BASE_UNSUPPORTED;
    memcpy(ret_pick->note, why.detail, sizeof(ret_pick->note));
    return BASE_OK;
}

/* What this device can do at most, for judging the kernels: bandwidth of memory and bus, cuBLASLt's rates, the cost of a launch.
 *
 * One JSON object on standard output; progress on standard error. Exit status 3: no device. Rates are medians after warm-up; where several
 * ways are tried (grids of the reading kernel, algorithms of cuBLASLt), the best median counts, since this is a ceiling.
 * cuBLASLt is opened when it can be found and declared here, so that neither its header nor its library is needed for building.
 * Build: nvcc -O3 -std=c++17 -arch=sm_90a ceilings.cu -o ceilings
 */
#include <cuda_runtime.h>

#include <algorithm>
#include <dlfcn.h>
#include <getopt.h>
#include <glob.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GEMM_SIZE      8192
#define WORKSPACE      ((size_t)64 << 20)
#define HOST_BYTES     ((size_t)256 << 20)
#define N_LAUNCHES     1000
#define SOFT_SECONDS   25.0 /* what has not begun by then is left out */
#define HARD_SECONDS   39   /* a device that hangs */
#define SAMPLES_MAX    32
#define WHEELS_MAX     8
#define ALGORITHMS_MAX 8

/* ---- the part of cuBLASLt that is used; the same since version 11 (FP8: 12) */

enum { LT_OK = 0, LT_COMPUTE_32F = 68, LT_OP_T = 1, LT_OP_N = 0 };
enum { LT_DESC_TRANSA = 3, LT_DESC_TRANSB = 4, LT_DESC_FAST_ACCUM = 25, LT_PREF_WORKSPACE_BYTES = 1 };

struct lt_algo {
    uint64_t data[8];
};

struct lt_found {
    struct lt_algo algo;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

struct lt {
    void *library;
    char path[512];
    size_t (*version)(void);
    int (*create)(void **handle);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
                  void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                  const struct lt_algo *algo, void *workspace, size_t workspace_bytes, cudaStream_t stream);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*desc_create)(void **desc, int compute, int scale_type);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*preference_create)(void **preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
    int (*find)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference, int wanted,
                struct lt_found *found, int *n_found);
};

struct options {
    int device;
    const char *cublaslt;
    const char *wheels[WHEELS_MAX];
    int n_wheels;
};

struct rates {
    double copy, read, bf16, fp8, h2d, d2h, launch, graph_launch; /* 0: not measured */
    char bf16_why[256], fp8_why[256];
};

static cudaStream_t stream;
static cudaEvent_t begin_event, end_event;
static double started;

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void note(const char *format, ...)
{
    va_list args;

    fprintf(stderr, "ceilings: %5.1f s: ", now() - started);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static void die(int status, const char *what, const char *why)
{
    fprintf(stderr, "ceilings: %s: %s\n", what, why);
    exit(status);
}

static void on_alarm(int signal_number)
{
    static const char text[] = "ceilings: the device did not finish in time\n";

    (void)signal_number;
    if (write(2, text, sizeof(text) - 1) < 0)
        _exit(2);
    _exit(1);
}

static void must(cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess)
        die(1, what, cudaGetErrorString(rc));
}

static bool out_of_time(void)
{
    return now() - started > SOFT_SECONDS;
}

static double median(double *samples, int n)
{
    std::sort(samples, samples + n);
    return n % 2 == 1 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
}

/* Device seconds of what is enqueued between the two. */
static void clock_begin(void)
{
    must(cudaEventRecord(begin_event, stream), "event");
}

static double clock_end(void)
{
    float ms = 0;

    must(cudaEventRecord(end_event, stream), "event");
    must(cudaEventSynchronize(end_event), "waiting for the device");
    must(cudaEventElapsedTime(&ms, begin_event, end_event), "event");
    return ms / 1e3;
}

/* ---- memory and bus */

/* At least eight 16-byte loads of each thread in flight. The sum goes out, so that no load can be left out. */
__global__ void read_all(const uint4 *__restrict__ from, size_t n, unsigned *sum)
{
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned total = 0;

    for (; i + 7 * stride < n; i += 8 * stride) {
        uint4 v[8];

#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __ldcs(from + i + k * stride);
#pragma unroll
        for (int k = 0; k < 8; k++)
            total += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < n; i += stride) {
        uint4 v = __ldcs(from + i);

        total += v.x ^ v.y ^ v.z ^ v.w;
    }
    for (int k = 16; k > 0; k /= 2)
        total += __shfl_xor_sync(0xffffffffu, total, k);
    if (threadIdx.x % 32 == 0)
        atomicAdd(sum, total);
}

__global__ void nothing(void)
{
}

static double measure_copy(char *memory, size_t half)
{
    double samples[20];

    for (int i = -3; i < 20; i++) {
        clock_begin();
        must(cudaMemcpyAsync(memory + half, memory, half, cudaMemcpyDeviceToDevice, stream), "device copy");
        if (double s = clock_end(); i >= 0)
            samples[i] = s;
    }
    return 2 * (double)half / median(samples, 20);
}

static double measure_read(const char *memory, size_t bytes, int n_sm)
{
    static const int blocks_per_sm[] = {2, 4, 8, 16, 32}, block_threads[] = {256, 512};
    unsigned *sum;
    double best = 0;

    must(cudaMalloc(&sum, sizeof(*sum)), "memory");
    must(cudaMemsetAsync(sum, 0, sizeof(*sum), stream), "memset");
    for (int threads : block_threads) {
        for (int blocks : blocks_per_sm) {
            double samples[7];

            for (int i = -1; i < 7; i++) {
                clock_begin();
                read_all<<<(unsigned)(blocks * n_sm), (unsigned)threads, 0, stream>>>((const uint4 *)memory,
                                                                                      bytes / 16, sum);
                must(cudaGetLastError(), "reading kernel");
                if (double s = clock_end(); i >= 0)
                    samples[i] = s;
            }
            best = std::max(best, (double)bytes / median(samples, 7));
        }
    }
    must(cudaFree(sum), "memory");
    return best;
}

static void measure_bus(char *memory, size_t bytes, struct rates *r)
{
    void *host;
    double up[10], down[10];

    if (cudaMallocHost(&host, bytes) != cudaSuccess) {
        cudaGetLastError();
        note("no pinned memory of %zu bytes: the bus is not measured", bytes);
        return;
    }
    memset(host, 1, bytes);
    for (int i = -2; i < 10; i++) {
        clock_begin();
        must(cudaMemcpyAsync(memory, host, bytes, cudaMemcpyHostToDevice, stream), "copy to the device");
        if (double s = clock_end(); i >= 0)
            up[i] = s;
        clock_begin();
        must(cudaMemcpyAsync(host, memory, bytes, cudaMemcpyDeviceToHost, stream), "copy from the device");
        if (double s = clock_end(); i >= 0)
            down[i] = s;
    }
    r->h2d = (double)bytes / median(up, 10);
    r->d2h = (double)bytes / median(down, 10);
    must(cudaFreeHost(host), "pinned memory");
}

/* ---- launches: seconds on the host from the first launch until the device is done, for each of N_LAUNCHES */

static double measure_launch(void)
{
    double samples[15];

    for (int i = -3; i < 15; i++) {
        double t0 = now();

        for (int k = 0; k < N_LAUNCHES; k++)
            nothing<<<1, 32, 0, stream>>>();
        must(cudaStreamSynchronize(stream), "empty kernels");
        if (i >= 0)
            samples[i] = (now() - t0) / N_LAUNCHES;
    }
    return median(samples, 15);
}

static double measure_graph_launch(void)
{
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    double samples[15];

    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int k = 0; k < N_LAUNCHES; k++)
        nothing<<<1, 32, 0, stream>>>();
    must(cudaStreamEndCapture(stream, &graph), "capture");
    must(cudaGraphInstantiateWithFlags(&ready, graph, 0), "graph");
    must(cudaGraphUpload(ready, stream), "graph");
    must(cudaStreamSynchronize(stream), "graph");
    for (int i = -3; i < 15; i++) {
        double t0 = now();

        must(cudaGraphLaunch(ready, stream), "graph");
        must(cudaStreamSynchronize(stream), "graph");
        if (i >= 0)
            samples[i] = (now() - t0) / N_LAUNCHES;
    }
    must(cudaGraphExecDestroy(ready), "graph");
    must(cudaGraphDestroy(graph), "graph");
    return median(samples, 15);
}

/* ---- matrix products */

static bool lt_try(struct lt *lt, const char *path)
{
    static const char *const names[] = {"cublasLtGetVersion",
                                        "cublasLtCreate",
                                        "cublasLtMatmul",
                                        "cublasLtMatrixLayoutCreate",
                                        "cublasLtMatmulDescCreate",
                                        "cublasLtMatmulDescSetAttribute",
                                        "cublasLtMatmulPreferenceCreate",
                                        "cublasLtMatmulPreferenceSetAttribute",
                                        "cublasLtMatmulAlgoGetHeuristic"};
    void **const slots[] = {
        (void **)&lt->version,           (void **)&lt->create,         (void **)&lt->matmul,
        (void **)&lt->layout_create,     (void **)&lt->desc_create,    (void **)&lt->desc_set,
        (void **)&lt->preference_create, (void **)&lt->preference_set, (void **)&lt->find};

    lt->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; lt->library != NULL && i < sizeof(names) / sizeof(names[0]); i++) {
        *slots[i] = dlsym(lt->library, names[i]);
        if (*slots[i] == NULL) {
            dlclose(lt->library);
            lt->library = NULL;
        }
    }
    snprintf(lt->path, sizeof(lt->path), "%s", path);
    return lt->library != NULL;
}

static bool lt_try_pattern(struct lt *lt, const char *folder, const char *rest)
{
    char pattern[1024];
    glob_t found;
    bool ok = false;

    snprintf(pattern, sizeof(pattern), "%s/%s/libcublasLt.so*", folder, rest);
    if (glob(pattern, 0, NULL, &found) != 0)
        return false;
    for (size_t i = 0; i < found.gl_pathc && !ok; i++)
        ok = lt_try(lt, found.gl_pathv[i]);
    globfree(&found);
    return ok;
}

static bool lt_open(struct lt *lt, const struct options *o)
{
    const char *home = getenv("CUDA_HOME");

    if (o->cublaslt != NULL && lt_try(lt, o->cublaslt))
        return true;
    if (o->cublaslt != NULL)
        note("%s cannot be used; looking elsewhere", o->cublaslt);
    if (lt_try(lt, "libcublasLt.so.13") || lt_try(lt, "libcublasLt.so.12") ||
        (home != NULL && lt_try_pattern(lt, home, "lib64")))
        return true;
    for (int i = 0; i < o->n_wheels; i++) {
        if (lt_try_pattern(lt, o->wheels[i], "nvidia/cublas/lib") ||
            lt_try_pattern(lt, o->wheels[i], "nvidia/cu13/lib"))
            return true;
    }
    return false;
}

__device__ static unsigned hash(size_t i)
{
    unsigned x = (unsigned)(i ^ i >> 32) * 0x9e3779b9u + 1;

    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

/* Random data: the same number everywhere would take less power, and the rate would be one that no model sees. */
__global__ void fill_bf16(uint16_t *out, size_t n)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        out[i] = (uint16_t)(__float_as_uint((float)(int)hash(i) * 0x1p-31f) >> 16);
}

/* Every sign and mantissa, exponents up to that of 1: no infinity. */
__global__ void fill_e4m3(uint8_t *out, size_t n)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        out[i] = (uint8_t)(hash(i) & 0xbf);
}

/* Operations per second of D = A^T B, both in `type`, D in BF16. 0: `why` [256] tells. */
static double measure_gemm(const struct lt *lt, void *handle, bool fp8, char *why)
{
    const size_t n = GEMM_SIZE, input_bytes = n * n * (fp8 ? 1 : 2);
    const int type = fp8 ? 28 /* CUDA_R_8F_E4M3 */ : (int)CUDA_R_16BF, transposed = LT_OP_T, plain = LT_OP_N;
    const int8_t fast = 1;
    const float one = 1, zero = 0;
    const size_t workspace_bytes = WORKSPACE;
    void *a = NULL, *b = NULL, *d = NULL, *workspace = NULL, *desc = NULL, *layout = NULL, *out_layout = NULL,
         *preference = NULL;
    struct lt_found found[ALGORITHMS_MAX];
    int n_found = 0, rc;
    double best = 0; /* the shortest median */

    if (cudaMalloc(&a, input_bytes) != cudaSuccess || cudaMalloc(&b, input_bytes) != cudaSuccess ||
        cudaMalloc(&d, n * n * 2) != cudaSuccess || cudaMalloc(&workspace, workspace_bytes) != cudaSuccess) {
        cudaGetLastError();
        snprintf(why, 256, "not enough device memory");
        goto out;
    }
    if (fp8) {
        fill_e4m3<<<1024, 256, 0, stream>>>((uint8_t *)a, n * n);
        fill_e4m3<<<1024, 256, 0, stream>>>((uint8_t *)b, n * n);
    } else {
        fill_bf16<<<1024, 256, 0, stream>>>((uint16_t *)a, n * n);
        fill_bf16<<<1024, 256, 0, stream>>>((uint16_t *)b, n * n);
    }
    must(cudaGetLastError(), "filling matrices");
    must(cudaStreamSynchronize(stream), "filling matrices");
    if ((rc = lt->desc_create(&desc, LT_COMPUTE_32F, CUDA_R_32F)) != LT_OK ||
        (rc = lt->desc_set(desc, LT_DESC_TRANSA, &transposed, sizeof(transposed))) != LT_OK ||
        (rc = lt->desc_set(desc, LT_DESC_TRANSB, &plain, sizeof(plain))) != LT_OK ||
        (fp8 && (rc = lt->desc_set(desc, LT_DESC_FAST_ACCUM, &fast, sizeof(fast))) != LT_OK) ||
        (rc = lt->layout_create(&layout, type, n, n, (int64_t)n)) != LT_OK ||
        (rc = lt->layout_create(&out_layout, CUDA_R_16BF, n, n, (int64_t)n)) != LT_OK ||
        (rc = lt->preference_create(&preference)) != LT_OK ||
        (rc = lt->preference_set(preference, LT_PREF_WORKSPACE_BYTES, &workspace_bytes,
                                 sizeof(workspace_bytes))) != LT_OK ||
        (rc = lt->find(handle, desc, layout, layout, out_layout, out_layout, preference, ALGORITHMS_MAX,
                       found, &n_found)) != LT_OK) {
        snprintf(why, 256, "cuBLASLt refuses this product (status %d)", rc);
        goto out;
    }
    for (int k = 0; k < n_found && !out_of_time(); k++) {
        double samples[5];
        int i;

        if (found[k].state != LT_OK)
            continue;
        for (i = -1; i < 5; i++) {
            clock_begin();
            for (int j = 0; j < 6; j++) {
                rc = lt->matmul(handle, desc, &one, a, layout, b, layout, &zero, d, out_layout, d, out_layout,
                                &found[k].algo, workspace, workspace_bytes, stream);
                if (rc != LT_OK)
                    break;
            }
            double s = clock_end() / 6;

            if (rc != LT_OK)
                break;
            if (i >= 0)
                samples[i] = s;
        }
        if (i == 5) {
            double s = median(samples, 5);

            best = best == 0 || s < best ? s : best;
        }
    }
    if (best == 0)
        snprintf(why, 256, "cuBLASLt has no algorithm for it that runs (%d offered)", n_found);
out:
    /* cuBLASLt's own objects are few and small: they go with the process. */
    cudaFree(a);
    cudaFree(b);
    cudaFree(d);
    cudaFree(workspace);
    return best > 0 ? 2.0 * GEMM_SIZE * GEMM_SIZE * GEMM_SIZE / best : 0;
}

static void measure_gemms(struct lt *lt, const struct options *o, int capability, struct rates *r)
{
    void *handle = NULL;

    if (out_of_time() || !lt_open(lt, o) || lt->create(&handle) != LT_OK) {
        const char *why = out_of_time()         ? "out of time"
                          : lt->library == NULL ? "libcublasLt was not found (--cublaslt, --wheels)"
                                                : "cuBLASLt does not start on this device";

        snprintf(r->bf16_why, sizeof(r->bf16_why), "%s", why);
        snprintf(r->fp8_why, sizeof(r->fp8_why), "%s", why);
        return;
    }
    note("cuBLASLt %zu: %s", lt->version(), lt->path);
    if (capability < 80)
        snprintf(r->bf16_why, sizeof(r->bf16_why), "the device has no BF16");
    else
        r->bf16 = measure_gemm(lt, handle, false, r->bf16_why);
    note("BF16 done");
    if (capability < 89)
        snprintf(r->fp8_why, sizeof(r->fp8_why), "the device has no FP8");
    else if (out_of_time())
        snprintf(r->fp8_why, sizeof(r->fp8_why), "out of time");
    else
        r->fp8 = measure_gemm(lt, handle, true, r->fp8_why);
    note("FP8 done");
}

/* ---- the program */

static void put_text(const char *key, const char *text)
{
    printf("\"%s\": \"", key);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text >= ' ' ? *text : '?');
    }
    fputs("\", ", stdout);
}

static void put_rate(const char *key, double rate, const char *end)
{
    if (rate > 0)
        printf("\"%s\": %.6g%s", key, rate, end);
    else
        printf("\"%s\": null%s", key, end);
}

static void print_result(const struct cudaDeviceProp *prop, size_t memory_free, size_t memory_total,
                         const struct lt *lt, const struct rates *r)
{
    char version[32];
    int driver = 0, runtime = 0;

    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    putchar('{');
    put_text("name", prop->name);
    snprintf(version, sizeof(version), "%d.%d", prop->major, prop->minor);
    put_text("capability", version);
    snprintf(version, sizeof(version), "%d.%d", driver / 1000, driver % 1000 / 10);
    put_text("driver", version);
    snprintf(version, sizeof(version), "%d.%d", runtime / 1000, runtime % 1000 / 10);
    put_text("runtime", version);
    printf("\"n_sm\": %d, \"memory_total\": %zu, \"memory_free\": %zu, ", prop->multiProcessorCount,
           memory_total, memory_free);
    if (lt->library != NULL) {
        put_text("cublaslt", lt->path);
        printf("\"cublaslt_version\": %zu, ", lt->version());
    }
    if (r->bf16_why[0] != '\0')
        put_text("bf16_why", r->bf16_why);
    if (r->fp8_why[0] != '\0')
        put_text("fp8_why", r->fp8_why);
    put_rate("copy_bytes_s", r->copy, ", ");
    put_rate("read_bytes_s", r->read, ", ");
    put_rate("bf16_flop_s", r->bf16, ", ");
    put_rate("fp8_flop_s", r->fp8, ", ");
    put_rate("h2d_bytes_s", r->h2d, ", ");
    put_rate("d2h_bytes_s", r->d2h, ", ");
    put_rate("launch_s", r->launch, ", ");
    put_rate("graph_launch_s", r->graph_launch, "}\n");
}

static void parse_options(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {{"device", required_argument, NULL, 'd'},
                                          {"cublaslt", required_argument, NULL, 'c'},
                                          {"wheels", required_argument, NULL, 'w'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    static const char help[] =
        "usage: ceilings [--device N] [--cublaslt FILE] [--wheels FOLDER]...\n"
        "Measures what a CUDA device can do at most; one JSON object on standard output, in less than 40 s.\n"
        "cuBLASLt is --cublaslt, or libcublasLt.so.13 or .12 as the linker finds it, or in "
        "$CUDA_HOME/lib64,\n"
        "or in nvidia/cublas/lib or nvidia/cu13/lib of a --wheels folder (a site-packages).\n"
        "Exit status 3: there is no device.\n";
    int opt;

    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (opt) {
        case 'd': o->device = atoi(optarg); break;
        case 'c': o->cublaslt = optarg; break;
        case 'w':
            if (o->n_wheels < WHEELS_MAX)
                o->wheels[o->n_wheels++] = optarg;
            break;
        case 'h': fputs(help, stdout); exit(0);
        default: exit(2);
        }
    }
    if (optind != argc) {
        fputs(help, stderr);
        exit(2);
    }
}

static char *take_memory(size_t memory_free, size_t *ret_half)
{
    char *memory = NULL;

    /* Far more than any cache holds, but a device that others use may have less. */
    for (size_t half = (size_t)1 << 30; half >= (size_t)64 << 20; half /= 2) {
        if (2 * half + ((size_t)64 << 20) > memory_free)
            continue;
        if (cudaMalloc(&memory, 2 * half) == cudaSuccess) {
            *ret_half = half;
            return memory;
        }
        cudaGetLastError();
    }
    die(3, "memory", "the device has less than 192 MiB free");
    return NULL;
}

int main(int argc, char **argv)
{
    struct options o = {};
    struct rates r = {};
    struct lt lt = {};
    struct cudaDeviceProp prop;
    size_t memory_free = 0, memory_total = 0, half = 0;
    int n_devices = 0;
    char *memory;
    cudaError_t rc;

    parse_options(argc, argv, &o);
    started = now();
    signal(SIGALRM, on_alarm);
    alarm(HARD_SECONDS);
    rc = cudaGetDeviceCount(&n_devices);
    if (rc != cudaSuccess || o.device < 0 || o.device >= n_devices)
        die(3, "no CUDA device", rc != cudaSuccess ? cudaGetErrorString(rc) : "no device of that number");
    must(cudaSetDevice(o.device), "device");
    must(cudaGetDeviceProperties(&prop, o.device), "device");
    must(cudaMemGetInfo(&memory_free, &memory_total), "device");
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    must(cudaEventCreate(&begin_event), "event");
    must(cudaEventCreate(&end_event), "event");
    memory = take_memory(memory_free, &half);
    must(cudaMemsetAsync(memory, 1, 2 * half, stream), "memset");
    note("%s", prop.name);
    r.copy = measure_copy(memory, half);
    r.read = measure_read(memory, 2 * half, prop.multiProcessorCount);
    note("memory done");
    r.launch = measure_launch();
    r.graph_launch = measure_graph_launch();
    note("launches done");
    if (!out_of_time())
        measure_bus(memory, std::min(HOST_BYTES, half), &r);
    note("bus done");
    must(cudaFree(memory), "memory");
    measure_gemms(&lt, &o, prop.major * 10 + prop.minor, &r);
    must(cudaStreamSynchronize(stream), "the end");
    print_result(&prop, memory_free, memory_total, &lt, &r);
    return 0;
}

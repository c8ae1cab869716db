/* The emulator itself: barriers, collectives, fragments, copies; and that faulty kernels are found. */
#define GPU_EMULATE 1
#include "engine/cuda/gpu.h"

#include "tap.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static __global__ void reverse(const int *in, int *out, int n)
{
    __shared__ int row[1000];
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);

    row[threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    out[i] = row[blockDim.x - 1 - threadIdx.x];
}

static void test_emulate__blocks_and_barriers(void)
{
    int in[600], out[600];

    for (int i = 0; i < 600; i++)
        in[i] = i * i;
    GPU_LAUNCH(reverse, 3, 200, 0, (gpu_stream)0, in, out, 600);
    for (int i = 0; i < 600; i++)
        CHECK_INT(out[i], in[i / 200 * 200 + 199 - i % 200]);
}

static __global__ void collect(unsigned *out)
{
    unsigned t = threadIdx.x, sum = t;

    for (unsigned by = 16; by > 0; by /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, by);
    out[t] = sum;
    out[64 + t] = __shfl_sync(0xffffffffu, t, 5);
    out[128 + t] = __shfl_down_sync(0xffffffffu, t, 3);
    out[192 + t] = __ballot_sync(0xffffffffu, t % 3 == 0);
    out[256 + t] = (unsigned)__syncthreads_count(t < 7);
    out[320 + t] = __shfl_up_sync(0xffffffffu, t, 1, 8);
}

static void test_emulate__collectives(void)
{
    unsigned out[384];

    GPU_LAUNCH(collect, 1, 64, 0, (gpu_stream)0, out);
    for (unsigned t = 0; t < 64; t++) {
        unsigned votes = 0;

        for (unsigned i = t / 32 * 32; i < t / 32 * 32 + 32; i++)
            votes |= i % 3 == 0 ? 1u << i % 32 : 0;
        CHECK_INT(out[t], t < 32 ? 496 : 496 + 32 * 32);
        CHECK_INT(out[64 + t], t / 32 * 32 + 5);
        CHECK_INT(out[128 + t], t % 32 + 3 < 32 ? t + 3 : t);
        CHECK_INT(out[192 + t], votes);
        CHECK_INT(out[256 + t], 7);
        CHECK_INT(out[320 + t], t % 8 == 0 ? t : t - 1);
    }
}

/* a [16, 16] and b [16, 8] in shared memory, by ldmatrix where it can, else by hand. */
static __global__ void multiply(const uint16_t *a, const uint16_t *b, float *d)
{
    alignas(16) __shared__ uint16_t as[256];
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    float sum[4] = {0, 0, 0, 0};
    uint32_t fa[4], fb[2];

    gpu_copy16_async(as + lane * 8, a + lane * 8, true);
    gpu_copy_commit();
    gpu_copy_wait<0>();
    __syncthreads();
    gpu_ldmatrix_x4(fa, as + (lane % 16) * 16 + lane / 16 * 8);
    for (unsigned i = 0; i < 2; i++)
        fb[i] = (uint32_t)b[(2 * t + 8 * i + 1) * 8 + g] << 16 | b[(2 * t + 8 * i) * 8 + g];
    gpu_mma_f16(sum, fa, fb);
    gpu_mma_f16(sum, fa, fb);
    d[g * 8 + 2 * t] = sum[0];
    d[g * 8 + 2 * t + 1] = sum[1];
    d[(g + 8) * 8 + 2 * t] = sum[2];
    d[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

static void test_emulate__mma_is_a_matrix_product(void)
{
    alignas(16) uint16_t a[256], b[128];
    float d[128];

    for (int i = 0; i < 256; i++)
        a[i] = gpu_f32_to_f16((float)(i * 7 % 31 - 15));
    for (int i = 0; i < 128; i++)
        b[i] = gpu_f32_to_f16((float)(i * 5 % 23 - 11) / 4);
    GPU_LAUNCH(multiply, 1, 32, 0, (gpu_stream)0, a, b, d);
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            float want = 0;

            for (int k = 0; k < 16; k++)
                want += gpu_f16_to_f32(a[r * 16 + k]) * gpu_f16_to_f32(b[k * 8 + c]);
            CHECK(d[r * 8 + c] == 2 * want);
        }
}

/* ---- what a device would not tell ---- */

static __global__ void some_leave(int *out)
{
    if (threadIdx.x < 3)
        return;
    __syncthreads();
    out[0] = 1;
}

static __global__ void two_barriers(int *out)
{
    if (threadIdx.x < 3)
        __syncthreads();
    else
        __syncthreads();
    out[0] = 1;
}

static __global__ void half_a_warp(int *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}

static __global__ void no_wait(const int *in, int *out)
{
    alignas(16) __shared__ int row[4];

    gpu_copy16_async(row, in, true);
    gpu_copy_commit();
    out[0] = row[0]; /* too early */
}

static bool dies(void (*run)(void))
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(0);
        run();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_emulate__faulty_kernels_are_found(void)
{
    alignas(16) int in[4] = {7, 7, 7, 7};
    int out[32];

    CHECK(dies([] {
        int o;
        GPU_LAUNCH(some_leave, 1, 32, 0, (gpu_stream)0, &o);
    }));
    CHECK(dies([] {
        int o;
        GPU_LAUNCH(two_barriers, 1, 32, 0, (gpu_stream)0, &o);
    }));
    CHECK(dies([] {
        int o[32];
        GPU_LAUNCH(half_a_warp, 1, 32, 0, (gpu_stream)0, o);
    }));
    CHECK(!dies([] {
        int i[64] = {0}, o[64];
        GPU_LAUNCH(reverse, 1, 64, 0, (gpu_stream)0, i, o, 64);
    }));
    GPU_LAUNCH(no_wait, 1, 1, 0, (gpu_stream)0, in, out);
    CHECK(out[0] != 7);
}

static __global__ void write_at(int *out, int i)
{
    out[i] = 1;
}

__attribute__((unused)) static void write_past(int n, int i)
{
    int *p = NULL;

    if (cudaMalloc((void **)&p, (size_t)n * sizeof(*p)) != cudaSuccess)
        _exit(0);
    GPU_LAUNCH(write_at, 1, 1, 0, (gpu_stream)0, p, i);
    cudaFree(p);
}

static void test_emulate__writes_past_an_allocation_are_found(void)
{
#if defined(__SANITIZE_ADDRESS__)
    CHECK(dies([] { write_past(25, 25); }));
    CHECK(dies([] { write_past(64, 64); }));
    CHECK(!dies([] { write_past(25, 24); }));
#else
    SKIP("AddressSanitizer is not in this build");
#endif
}

static const struct tap_case cases[] = {
    CASE(test_emulate__blocks_and_barriers),
    CASE(test_emulate__collectives),
    CASE(test_emulate__mma_is_a_matrix_product),
    CASE(test_emulate__faulty_kernels_are_found),
    CASE(test_emulate__writes_past_an_allocation_are_found),
};

int main(int argc, char **argv)
{
    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}

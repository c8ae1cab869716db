/* The part of CUDA that the kernels and device.cu use, on the CPU. Private to engine/cuda/; included by gpu.h alone.
 *
 * What: a launch runs its blocks one after the other, the threads of a block as fibers of the calling thread, to its end. Copies
 *       from the host happen as late as they may: when an event after them is asked for, or before the stream's next work of another
 *       kind. Shared memory is static memory.
 * Who:  any thread; launches of several threads run one after the other.
 * Promises: finds what a device would not tell: accesses outside of an allocation (with -fsanitize=address: device memory is malloc's),
 *           a barrier or a warp collective that not all threads reach, barriers of different lines that meet, copies that are read
 *           before they are waited for. Fresh device and dynamic shared memory is poisoned. GPU_EMULATE_SEED=n changes the
 *           order in which threads run, which shows missing barriers.
 * Not here: speed; races between blocks.
 */
#ifndef ENGINE_CUDA_EMULATE_H
#define ENGINE_CUDA_EMULATE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __shared__      static
#define __constant__    static
#define __forceinline__ inline
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* ---- vector types ---- */

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz)
    {
    }
};

static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}

static inline int4 make_int4(int x, int y, int z, int w)
{
    return int4{x, y, z, w};
}

/* ---- threads ---- */

struct gpu_emulated_thread {
    uint3 thread, block;
    dim3 threads, blocks;
};
extern const struct gpu_emulated_thread *gpu_emulate_self; /* the one that runs */

#define threadIdx (gpu_emulate_self->thread)
#define blockIdx  (gpu_emulate_self->block)
#define blockDim  (gpu_emulate_self->threads)
#define gridDim   (gpu_emulate_self->blocks)
#define warpSize  32

void gpu_emulate_launch(const char *name, dim3 blocks, dim3 threads, size_t shared_bytes,
                        void (*run)(void *body), void *body);
void *gpu_emulate_shared(void);
/* Waits for the whole block; gives how many threads brought true. */
unsigned gpu_emulate_barrier(int line, bool vote);
/* Each lane of the mask brings `bytes` (at most 64), and sees the others' until its next collective: 64 bytes a lane. */
const unsigned char *gpu_emulate_exchange(int line, unsigned mask, const void *mine, size_t bytes);
unsigned gpu_emulate_lane(void);

template <typename Body> static void gpu_emulate_run(void *body)
{
    (*(Body *)body)();
}

template <typename Body>
static void gpu_emulate_with(const char *name, dim3 blocks, dim3 threads, size_t shared_bytes, Body body)
{
    gpu_emulate_launch(name, blocks, threads, shared_bytes, gpu_emulate_run<Body>, &body);
}

#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ((void)(stream), gpu_emulate_with(#kernel, grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); }))
#define GPU_DYNAMIC_SHARED(type, name) type *name = (type *)gpu_emulate_shared()

#define __syncthreads()           ((void)gpu_emulate_barrier(__LINE__, false))
#define __syncthreads_or(vote)    (gpu_emulate_barrier(__LINE__, (vote) != 0) > 0)
#define __syncthreads_count(vote) ((int)gpu_emulate_barrier(__LINE__, (vote) != 0))
#define __syncwarp(...)           ((void)gpu_emulate_exchange(__LINE__, 0xffffffffu, "", 0))
#define __threadfence()           ((void)0)
#define __threadfence_block()     ((void)0)

template <typename T> static T gpu_emulate_shuffle(int line, unsigned mask, T v, unsigned from)
{
    const unsigned char *all = gpu_emulate_exchange(line, mask, &v, sizeof(v));
    T got;

    memcpy(&got, all + (from % 32) * 64, sizeof(got));
    return got;
}

static inline unsigned gpu_emulate_ballot(int line, unsigned mask, bool vote)
{
    unsigned char mine = vote;
    const unsigned char *all = gpu_emulate_exchange(line, mask, &mine, 1);
    unsigned votes = 0;

    for (unsigned i = 0; i < 32; i++)
        votes |= (mask >> i & 1) != 0 && all[i * 64] != 0 ? 1u << i : 0;
    return votes;
}

/* The lane of a segment of `width` lanes; out of range: one's own, as the device does. */
static inline unsigned gpu_emulate_up(unsigned by, unsigned width)
{
    unsigned lane = gpu_emulate_lane();

    return lane % width < by ? lane : lane - by;
}

static inline unsigned gpu_emulate_down(unsigned by, unsigned width)
{
    unsigned lane = gpu_emulate_lane();

    return lane % width + by >= width ? lane : lane + by;
}

static inline unsigned gpu_emulate_in(unsigned from, unsigned width)
{
    return gpu_emulate_lane() / width * width + from % width;
}

#define GPU_WIDTH(unused, ...) gpu_emulate_width(__VA_ARGS__)
static inline unsigned gpu_emulate_width(unsigned width = 32)
{
    return width;
}

#define __shfl_sync(mask, v, from, ...) \
    gpu_emulate_shuffle(__LINE__, mask, v, gpu_emulate_in(from, gpu_emulate_width(__VA_ARGS__)))
#define __shfl_xor_sync(mask, v, by, ...) \
    gpu_emulate_shuffle(__LINE__, mask, v, gpu_emulate_lane() ^ (unsigned)(by))
#define __shfl_up_sync(mask, v, by, ...) \
    gpu_emulate_shuffle(__LINE__, mask, v, gpu_emulate_up(by, gpu_emulate_width(__VA_ARGS__)))
#define __shfl_down_sync(mask, v, by, ...) \
    gpu_emulate_shuffle(__LINE__, mask, v, gpu_emulate_down(by, gpu_emulate_width(__VA_ARGS__)))
#define __ballot_sync(mask, vote) gpu_emulate_ballot(__LINE__, mask, (vote) != 0)
#define __any_sync(mask, vote)    (gpu_emulate_ballot(__LINE__, mask, (vote) != 0) != 0)
#define __all_sync(mask, vote)    (gpu_emulate_ballot(__LINE__, mask, (vote) == 0) == 0)

/* ---- arithmetic ---- */

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}

static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

static inline double __dadd_rn(double a, double b)
{
    return a + b;
}

static inline double __dmul_rn(double a, double b)
{
    return a * b;
}

static inline int __clz(int v)
{
    return v == 0 ? 32 : __builtin_clz((unsigned)v);
}

static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}

static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}

static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    return u;
}

static inline float __uint_as_float(uint32_t u)
{
    float f;

    memcpy(&f, &u, 4);
    return f;
}

static inline int __float_as_int(float f)
{
    return (int)__float_as_uint(f);
}

static inline float __int_as_float(int i)
{
    return __uint_as_float((uint32_t)i);
}

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}

template <typename T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}

template <typename T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

/* Threads take turns only where they wait. */
template <typename T> static inline T atomicAdd(T *at, T v)
{
    T old = *at;

    *at = old + v;
    return old;
}

template <typename T> static inline T atomicMin(T *at, T v)
{
    T old = *at;

    *at = v < old ? v : old;
    return old;
}

template <typename T> static inline T atomicMax(T *at, T v)
{
    T old = *at;

    *at = v > old ? v : old;
    return old;
}

template <typename T> static inline T atomicOr(T *at, T v)
{
    T old = *at;

    *at = old | v;
    return old;
}

template <typename T> static inline T atomicExch(T *at, T v)
{
    T old = *at;

    *at = v;
    return old;
}

template <typename T> static inline T atomicCAS(T *at, T expected, T v)
{
    T old = *at;

    if (old == expected)
        *at = v;
    return old;
}

/* ---- gpu.h's wrappers ---- */

static inline float gpu_f16_to_f32(uint16_t h)
{
    return eng_f16_to_f32(h);
}

static inline uint16_t gpu_f32_to_f16(float f)
{
    return eng_f32_to_f16(f);
}

static inline float gpu_bf16_to_f32(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

static inline uint16_t gpu_f32_to_bf16(float f)
{
    uint32_t u = __float_as_uint(f);

    if (f != f)
        return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline uint32_t gpu_pack_f16(float lo, float hi)
{
    return (uint32_t)gpu_f32_to_f16(hi) << 16 | gpu_f32_to_f16(lo);
}

static inline uint32_t gpu_pack_bf16(float lo, float hi)
{
    return (uint32_t)gpu_f32_to_bf16(hi) << 16 | gpu_f32_to_bf16(lo);
}

static inline uint32_t gpu_sub_f16x2(uint32_t a, uint32_t b)
{
    return gpu_pack_f16(gpu_f16_to_f32((uint16_t)a) - gpu_f16_to_f32((uint16_t)b),
                        gpu_f16_to_f32((uint16_t)(a >> 16)) - gpu_f16_to_f32((uint16_t)(b >> 16)));
}

void gpu_emulate_mma(float d[4], const uint32_t a[4], const uint32_t b[2], float (*value)(uint16_t));
void gpu_emulate_ldmatrix(uint32_t *r, unsigned n, const void *shared, bool transposed);

static inline void gpu_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    gpu_emulate_mma(d, a, b, gpu_f16_to_f32);
}

static inline void gpu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    gpu_emulate_mma(d, a, b, gpu_bf16_to_f32);
}

static inline void gpu_ldmatrix_x4(uint32_t r[4], const void *shared)
{
    gpu_emulate_ldmatrix(r, 4, shared, false);
}

static inline void gpu_ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    gpu_emulate_ldmatrix(r, 4, shared, true);
}

static inline void gpu_ldmatrix_x2(uint32_t r[2], const void *shared)
{
    gpu_emulate_ldmatrix(r, 2, shared, false);
}

/* Copies happen as late as they may: at the wait. */
void gpu_copy16_async(void *shared, const void *global, bool valid);
void gpu_copy_commit(void);
void gpu_emulate_copy_wait(unsigned groups);

template <int N> static inline void gpu_copy_wait(void)
{
    gpu_emulate_copy_wait(N);
}

static inline uint4 gpu_load16_once(const void *global)
{
    uint4 v;

    if ((uintptr_t)global % 16 != 0)
        __builtin_trap();
    memcpy(&v, global, sizeof(v));
    return v;
}

/* ---- runtime ---- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

typedef struct gpu_emulated_stream *cudaStream_t;
typedef struct gpu_emulated_event *cudaEvent_t;
typedef cudaStream_t gpu_stream;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);

/* For tests: what goes wrong from now on. "" ends all faults and brings a lost device back.
 *   launch      the launch after `after` more fails, and the device is lost
 *   hang        nothing after `after` more launches ever ends
 *   malloc      the allocation after `after` more fails; pinned: one of pinned memory
 *   copy, set, record   the call after `after` more is refused and does nothing; the device goes on
 *   copy-hang   the copy from the host after `after` more never ends; copy-loss: it ends, and the device is lost
 *   taken       `after` MiB of the device's memory belong to another process
 *   no-driver, old-driver, no-device, capability (7.0) */
extern "C" __attribute__((visibility("default"))) void gpu_emulate_fault(const char *what, unsigned after);
/* Launches since the start: whether a fault can still come. */
extern "C" __attribute__((visibility("default"))) unsigned gpu_emulate_launches(void);
/* The most copies from the host that were on their way at once, since the last gpu_emulate_fault. */
extern "C" __attribute__((visibility("default"))) unsigned gpu_emulate_most_late(void);

#endif

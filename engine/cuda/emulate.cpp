/* The emulator: see emulate.h.
 *
 * A block's threads are fibers with stacks of their own. Each runs until it waits at a barrier or a collective, then the next one that
 * can go on runs. When none can, the block is stuck: the kernel has a fault that a device would answer with a hang, and the
 * process ends with the places where the threads wait.
 */
#define GPU_EMULATE 1
#include "engine/cuda/gpu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

enum { THREADS_MAX = 1024, STACK_BYTES = 256 << 10, LANES = 32, SLOT_BYTES = 64, POISON = 0xCD };

struct copy {
    void *to;
    const void *from;
    bool valid;
    unsigned group;
};

struct warp {
    unsigned char
        slots[2][LANES *
                 SLOT_BYTES]; /* two, so that the next collective does not overwrite what is still read */
    unsigned generation, arrived;
    unsigned mask;
    int line;
};

/* Where a fiber or the scheduler goes on. ucontext makes two system calls a switch, which is most of an emulated kernel's time. */
#if defined(__x86_64__)
struct place {
    void *sp;
};

extern "C" void gpu_emulate_switch(void **save_sp, void *load_sp);
__asm__(".text\n"
        ".globl gpu_emulate_switch\n"
        ".hidden gpu_emulate_switch\n"
        ".type gpu_emulate_switch, @function\n"
        "gpu_emulate_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size gpu_emulate_switch, . - gpu_emulate_switch\n");

static void go(struct place *from, struct place *to)
{
    gpu_emulate_switch(&from->sp, to->sp);
}

/* Six registers, the entry, and room that keeps the stack aligned as after a call. */
static void begin_at(struct place *at, void *stack, size_t bytes, void (*entry)(void))
{
    void **top = (void **)((char *)stack + bytes) - 2;

    top[-1] = NULL; /* where the entry would return to */
    top[-2] = (void *)entry;
    memset(top - 8, 0, 6 * sizeof(void *));
    at->sp = top - 8;
}
#else
struct place {
    ucontext_t context;
};

static void go(struct place *from, struct place *to)
{
    swapcontext(&from->context, &to->context);
}

static void begin_at(struct place *at, void *stack, size_t bytes, void (*entry)(void))
{
    getcontext(&at->context);
    at->context.uc_stack.ss_sp = stack;
    at->context.uc_stack.ss_size = bytes;
    at->context.uc_link = NULL;
    makecontext(&at->context, entry, 0);
}
#endif

struct fiber {
    struct gpu_emulated_thread self;
    struct place place;
    void *stack;
    void *fake_stack;          /* of AddressSanitizer */
    const unsigned *waits_for; /* a generation, until it is another than `seen` */
    unsigned seen;
    int line; /* where it waits */
    bool done;
    struct copy *copies; /* not carried out yet */
    unsigned n_copies, room, groups;
};

/* The block that runs. `lock` is held during a launch. */
static struct {
    pthread_mutex_t lock;
    struct fiber fibers[THREADS_MAX];
    struct warp warps[THREADS_MAX / LANES];
    unsigned n, n_done, current;
    unsigned barrier_generation, barrier_arrived, barrier_votes, barrier_result;
    int barrier_line;
    const char *kernel;
    void (*run)(void *body);
    void *body;
    unsigned char *shared;
    size_t shared_bytes;
    struct place scheduler;
    void *scheduler_fake_stack;
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
} block = {.lock = PTHREAD_MUTEX_INITIALIZER};

const struct gpu_emulated_thread *gpu_emulate_self;

__attribute__((noreturn)) static void stuck(const char *why)
{
    const dim3 &t = block.fibers[0].self.threads;

    fprintf(stderr, "emulated kernel %s, block %u of %u, %u threads: %s\n", block.kernel,
            block.fibers[0].self.block.x, block.fibers[0].self.blocks.x, t.x * t.y * t.z, why);
    for (unsigned i = 0, shown = 0; i < block.n && shown < 8; i++) {
        if (i > 0 && block.fibers[i].done == block.fibers[i - 1].done &&
            block.fibers[i].line == block.fibers[i - 1].line)
            continue;
        fprintf(stderr, "  from thread %u: %s line %d\n", i,
                block.fibers[i].done ? "ended after" : "waits at", block.fibers[i].line);
        shown++;
    }
    abort();
}

/* ---- fibers ---- */

static void to_scheduler(struct fiber *f, bool for_good)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? NULL : &f->fake_stack, block.scheduler_stack,
                                   block.scheduler_stack_bytes);
#endif
    go(&f->place, &block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, NULL, NULL);
#endif
    (void)for_good;
}

static void to_fiber(struct fiber *f)
{
    gpu_emulate_self = &f->self;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, f->stack, STACK_BYTES);
#endif
    go(&block.scheduler, &f->place);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, NULL, NULL);
#endif
}

static void fiber_main(void)
{
    struct fiber *f = &block.fibers[block.current];

#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
    block.run(block.body);
    f = &block.fibers[block.current];
    gpu_emulate_copy_wait(0);
    f->done = true;
    block.n_done++;
    to_scheduler(f, true);
    abort();
}

static void start_fiber(unsigned i)
{
    struct fiber *f = &block.fibers[i];

    if (f->stack == NULL) {
        f->stack =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (f->stack == MAP_FAILED)
            stuck("no memory for its stacks");
    }
    begin_at(&f->place, f->stack, STACK_BYTES, fiber_main);
    f->done = false;
    f->waits_for = NULL;
    f->fake_stack = NULL;
    f->line = 0;
    f->n_copies = f->groups = 0;
}

/* Until the counter at `generation` moves on. */
static void wait_for(struct fiber *f, const unsigned *generation, int line)
{
    f->waits_for = generation;
    f->seen = *generation;
    f->line = line;
    to_scheduler(f, false);
    gpu_emulate_self = &f->self;
}

/* ---- collectives ---- */

unsigned gpu_emulate_barrier(int line, bool vote)
{
    struct fiber *f = &block.fibers[block.current];

    if (block.n_done > 0) {
        f->line = line;
        stuck("a barrier after some threads have ended");
    }
    if (block.barrier_arrived > 0 && block.barrier_line != line) {
        f->line = line;
        stuck("barriers of different lines meet");
    }
    block.barrier_line = line;
    block.barrier_votes += vote;
    if (++block.barrier_arrived < block.n) {
        wait_for(f, &block.barrier_generation, line);
        return block.barrier_result;
    }
    block.barrier_result = block.barrier_votes;
    block.barrier_arrived = block.barrier_votes = 0;
    block.barrier_generation++;
    return block.barrier_result;
}

unsigned gpu_emulate_lane(void)
{
    return block.current % LANES;
}

const unsigned char *gpu_emulate_exchange(int line, unsigned mask, const void *mine, size_t bytes)
{
    struct fiber *f = &block.fibers[block.current];
    struct warp *w = &block.warps[block.current / LANES];
    unsigned lane = block.current % LANES, first = block.current - lane;
    unsigned there = block.n - first >= LANES ? ~0u : (1u << (block.n - first)) - 1;
    unsigned char *slots = w->slots[w->generation % 2];

    f->line = line;
    mask &= there; /* the last warp of a block may be short */
    if ((mask >> lane & 1) == 0)
        stuck("a thread outside of its own mask");
    if (w->arrived != 0 && (w->mask != mask || w->line != line))
        stuck("warp collectives of different masks or lines meet");
    w->mask = mask;
    w->line = line;
    memcpy(slots + lane * SLOT_BYTES, mine, bytes);
    w->arrived |= 1u << lane;
    if (w->arrived != mask) {
        wait_for(f, &w->generation, line);
        return slots;
    }
    w->arrived = 0;
    w->generation++;
    return slots;
}

struct fragments {
    uint32_t a[4], b[2];
};

void gpu_emulate_mma(float d[4], const uint32_t a[4], const uint32_t b[2], float (*value)(uint16_t))
{
    struct fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, of_a, of_b;
    const unsigned char *all = gpu_emulate_exchange(-1, ~0u, &mine, sizeof(mine));
    unsigned lane = gpu_emulate_lane(), g = lane / 4, t = lane % 4;

    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + i / 2 * 8, col = 2 * t + i % 2;
        double sum = d[i];

        for (unsigned k = 0; k < 16; k++) {
            unsigned half = k / 8, owner = k % 8 / 2;

            memcpy(&of_a, all + (row % 8 * 4 + owner) * SLOT_BYTES, sizeof(of_a));
            memcpy(&of_b, all + (col * 4 + owner) * SLOT_BYTES, sizeof(of_b));
            sum += (double)value((uint16_t)(of_a.a[half * 2 + row / 8] >> k % 2 * 16)) *
                   value((uint16_t)(of_b.b[half] >> k % 2 * 16));
        }
        d[i] = (float)sum;
    }
}

void gpu_emulate_ldmatrix(uint32_t *r, unsigned n, const void *shared, bool transposed)
{
    const unsigned char *all = gpu_emulate_exchange(-2, ~0u, &shared, sizeof(shared));
    unsigned lane = gpu_emulate_lane(), g = lane / 4, t = lane % 4;

    for (unsigned i = 0; i < n; i++) {
        uint16_t v[2];

        for (unsigned j = 0; j < 2; j++) {
            unsigned row = transposed ? 2 * t + j : g, col = transposed ? g : 2 * t + j;
            const unsigned char *at;

            memcpy(&at, all + (i * 8 + row) * SLOT_BYTES, sizeof(at));
            if ((uintptr_t)at % 16 != 0)
                stuck("ldmatrix from an address that is no multiple of 16");
            memcpy(&v[j], at + col * 2, 2);
        }
        r[i] = (uint32_t)v[1] << 16 | v[0];
    }
}

/* ---- copies behind the thread's back ---- */

void gpu_copy16_async(void *shared, const void *global, bool valid)
{
    struct fiber *f = &block.fibers[block.current];

    if ((uintptr_t)shared % 16 != 0 || (valid && (uintptr_t)global % 16 != 0))
        stuck("an asynchronous copy from or to an address that is no multiple of 16");
    if (f->n_copies == f->room) {
        f->room = f->room * 2 + 64;
        f->copies = (struct copy *)realloc(f->copies, f->room * sizeof(*f->copies));
        if (f->copies == NULL)
            abort();
    }
    memset(shared, POISON, 16);
    f->copies[f->n_copies++] = (struct copy){shared, global, valid, f->groups};
}

void gpu_copy_commit(void)
{
    block.fibers[block.current].groups++;
}

void gpu_emulate_copy_wait(unsigned groups)
{
    struct fiber *f = &block.fibers[block.current];
    unsigned n = 0;

    for (unsigned i = 0; i < f->n_copies; i++) {
        struct copy *c = &f->copies[i];

        if (f->groups >= groups && c->group + groups < f->groups) {
            if (c->valid)
                memcpy(c->to, c->from, 16);
            else
                memset(c->to, 0, 16);
        } else
            f->copies[n++] = *c;
    }
    f->n_copies = n;
}

/* ---- launches ---- */

void *gpu_emulate_shared(void)
{
    return block.shared;
}

/* A pass over all threads; the order within a pass changes with the seed. */
static void run_block(unsigned seed)
{
    unsigned stride = seed == 0 ? 1 : 2 * (seed % 509) + 1, offset = seed * 7;

    while (stride % 2 == 0 || (block.n % stride == 0 && stride > 1))
        stride += 2;
    for (unsigned gcd = 0; gcd != 1;) { /* a stride that meets every thread */
        unsigned a = block.n, b = stride;

        while (b != 0) {
            unsigned r = a % b;

            a = b;
            b = r;
        }
        gcd = a;
        if (gcd != 1)
            stride += 2;
    }
    while (block.n_done < block.n) {
        bool moved = false;

        for (unsigned i = 0; i < block.n; i++) {
            unsigned at = (unsigned)(((uint64_t)i * stride + offset) % block.n);
            struct fiber *f = &block.fibers[at];

            if (f->done || (f->waits_for != NULL && *f->waits_for == f->seen))
                continue;
            f->waits_for = NULL;
            block.current = at;
            to_fiber(f);
            moved = true;
        }
        if (!moved)
            stuck("no thread can go on");
    }
}

/* A copy from the host that is on its way. */
struct late_copy {
    void *to;
    const void *from;
    size_t bytes;
    bool loses; /* the device */
    struct late_copy *next;
};

/* What tests ask for, and what came of it. */
static struct {
    pthread_mutex_t lock;
    char what[32];
    unsigned after, launches;
    bool hangs;
    cudaError_t sticky, last;
    size_t taken, allocated;
    struct late_copy *first, **last_next; /* last_next NULL: none yet */
    uint64_t n_copies, n_copied, most_late;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool faulty(const char *what)
{
    return strcmp(device.what, what) == 0;
}

/* Copies up to the given one are carried out; under the lock. */
static void copy_up_to(uint64_t n)
{
    while (!device.hangs && device.n_copied < n && device.first != NULL) {
        struct late_copy *c = device.first;

        if (device.sticky == cudaSuccess)
            memcpy(c->to, c->from, c->bytes);
        if (c->loses)
            device.sticky = cudaErrorIllegalAddress;
        device.first = c->next;
        if (device.first == NULL)
            device.last_next = NULL;
        device.n_copied++;
        free(c);
    }
}

/* Before whatever else the stream does. */
static void copy_all(void)
{
    pthread_mutex_lock(&device.lock);
    copy_up_to(device.n_copies);
    pthread_mutex_unlock(&device.lock);
}

/* Whether the launch is carried out. */
static bool launch_allowed(void)
{
    bool allowed;

    pthread_mutex_lock(&device.lock);
    copy_up_to(device.n_copies);
    device.launches++;
    if (faulty("launch") && device.after-- == 0)
        device.sticky = cudaErrorLaunchFailure;
    if (faulty("hang") && !device.hangs && device.after-- == 0)
        device.hangs = true;
    allowed = device.sticky == cudaSuccess && !device.hangs;
    pthread_mutex_unlock(&device.lock);
    return allowed;
}

void gpu_emulate_launch(const char *name, dim3 blocks, dim3 threads, size_t shared_bytes,
                        void (*run)(void *body), void *body)
{
    const char *seed = getenv("GPU_EMULATE_SEED");
    unsigned n = threads.x * threads.y * threads.z, mix = seed != NULL ? (unsigned)atoi(seed) : 0;

    if (n == 0 || n > THREADS_MAX || blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.y > 65535 ||
        blocks.z > 65535 || shared_bytes > 227u << 10) {
        fprintf(stderr,
                "emulated kernel %s: %u x %u x %u blocks of %u threads with %zu bytes cannot be launched\n",
                name, blocks.x, blocks.y, blocks.z, n, shared_bytes);
        abort();
    }
    if (!launch_allowed())
        return;
    pthread_mutex_lock(&block.lock);
    block.kernel = name;
    block.run = run;
    block.body = body;
    block.n = n;
    block.shared = (unsigned char *)aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128);
    block.shared_bytes = shared_bytes;
    for (unsigned b = 0; b < blocks.x * blocks.y * blocks.z; b++) {
        memset(block.shared, POISON, shared_bytes);
        block.n_done = block.barrier_arrived = block.barrier_votes = 0;
        memset(block.warps, 0, sizeof(block.warps));
        for (unsigned i = 0; i < n; i++) {
            start_fiber(i);
            block.fibers[i].self =
                gpu_emulated_thread{{i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y},
                                    {b % blocks.x, b / blocks.x % blocks.y, b / blocks.x / blocks.y},
                                    threads,
                                    blocks};
        }
        run_block(mix != 0 ? mix + b : 0);
    }
    free(block.shared);
    block.shared = NULL;
    pthread_mutex_unlock(&block.lock);
}

/* ---- runtime ---- */

#define DEVICE_BYTES ((size_t)8 << 30)

struct gpu_emulated_stream {
    int unused;
};
struct gpu_emulated_event {
    uint64_t copies; /* that were on the stream before it */
};

/* Before each block. The list keeps in sight what a lost device's owner never gives back. */
struct allocation {
    alignas(256) size_t bytes; /* of the device; 0: of the host */
    struct allocation *before, *after;
};

static struct allocation *all_blocks;

static void *new_block(size_t bytes, bool on_device)
{
    struct allocation *a;
    void *p;

    if (posix_memalign(&p, 256, sizeof(*a) + bytes) !=
        0) /* to the byte, so that what is read past the end is seen */
        return NULL;
    a = (struct allocation *)p;
    pthread_mutex_lock(&device.lock);
    *a = (struct allocation){on_device ? bytes : 0, NULL, all_blocks};
    if (all_blocks != NULL)
        all_blocks->before = a;
    all_blocks = a;
    device.allocated += a->bytes;
    pthread_mutex_unlock(&device.lock);
    memset(a + 1, POISON, bytes);
    return a + 1;
}

static void free_block(void *p)
{
    struct allocation *a;

    if (p == NULL)
        return;
    a = (struct allocation *)p - 1;
    pthread_mutex_lock(&device.lock);
    if (a->before != NULL)
        a->before->after = a->after;
    else
        all_blocks = a->after;
    if (a->after != NULL)
        a->after->before = a->before;
    device.allocated -= a->bytes;
    pthread_mutex_unlock(&device.lock);
    free(a);
}

static cudaError_t answer(cudaError_t error)
{
    if (error != cudaSuccess)
        device.last = error;
    return device.sticky != cudaSuccess ? device.sticky : error;
}

/* Whether this call is the one that fails, by an error that is the call's alone. */
static bool fails_now(const char *what)
{
    bool now;

    pthread_mutex_lock(&device.lock);
    now = faulty(what) && device.after-- == 0;
    pthread_mutex_unlock(&device.lock);
    return now;
}

extern "C" void gpu_emulate_fault(const char *what, unsigned after)
{
    pthread_mutex_lock(&device.lock);
    snprintf(device.what, sizeof(device.what), "%s", what);
    device.after = after;
    device.taken = faulty("taken") ? (size_t)after << 20 : 0;
    device.hangs = false;
    device.most_late = 0;
    device.sticky = device.last = cudaSuccess;
    pthread_mutex_unlock(&device.lock);
}

/* GPU_EMULATE_FAULT=launch:12: for tests of whole programs. */
__attribute__((constructor)) static void fault_from_environment(void)
{
    const char *text = getenv("GPU_EMULATE_FAULT");
    char what[32];
    unsigned after = 0;

    if (text != NULL && sscanf(text, "%31[^:]:%u", what, &after) >= 1)
        gpu_emulate_fault(what, after);
}

extern "C" unsigned gpu_emulate_launches(void)
{
    return device.launches;
}

extern "C" unsigned gpu_emulate_most_late(void)
{
    return (unsigned)device.most_late;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    if (faulty("no-driver") || faulty("old-driver"))
        return answer(cudaErrorInsufficientDriver);
    if (faulty("no-device")) {
        *n = 0;
        return answer(cudaErrorNoDevice);
    }
    return answer(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int index)
{
    if (index != 0)
        return answer(cudaErrorInvalidDevice);
    *prop = cudaDeviceProp{};
    snprintf(prop->name, sizeof(prop->name), "emulated device");
    prop->totalGlobalMem = DEVICE_BYTES;
    prop->major = faulty("capability") ? 7 : 9;
    prop->multiProcessorCount = 4;
    return answer(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = faulty("no-driver") ? 0 : faulty("old-driver") ? 11040 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index)
{
    return answer(index == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int)
{
    snprintf(out, (size_t)bytes, "0000:00:00.0");
    return answer(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    size_t used = device.allocated + device.taken;

    *total_bytes = DEVICE_BYTES;
    *free_bytes = used < DEVICE_BYTES ? DEVICE_BYTES - used : 0;
    return answer(cudaSuccess);
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if (device.sticky != cudaSuccess)
        return answer(device.sticky);
    if ((faulty("malloc") && device.after-- == 0) || bytes > DEVICE_BYTES - device.allocated - device.taken)
        return answer(cudaErrorMemoryAllocation);
    *p = new_block(bytes, true);
    return answer(*p != NULL ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *p)
{
    free_block(p);
    return answer(cudaSuccess);
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    if (fails_now("pinned"))
        return answer(cudaErrorMemoryAllocation);
    *p = new_block(bytes, false);
    return answer(*p != NULL ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    free_block(p);
    return answer(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t)
{
    struct late_copy *c;

    if (fails_now("copy"))
        return answer(cudaErrorInvalidValue);
    if (kind != cudaMemcpyHostToDevice) {
        copy_all();
        if (device.sticky == cudaSuccess && !device.hangs)
            memcpy(to, from, bytes);
        return answer(cudaSuccess);
    }
    c = (struct late_copy *)malloc(sizeof(*c));
    if (c == NULL)
        abort();
    *c = (struct late_copy){to, from, bytes, fails_now("copy-loss"), NULL};
    device.hangs = device.hangs || fails_now("copy-hang");
    pthread_mutex_lock(&device.lock);
    *(device.last_next != NULL ? device.last_next : &device.first) = c;
    device.last_next = &c->next;
    device.n_copies++;
    if (device.n_copies - device.n_copied > device.most_late)
        device.most_late = device.n_copies - device.n_copied;
    pthread_mutex_unlock(&device.lock);
    return answer(cudaSuccess);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t)
{
    if (fails_now("set"))
        return answer(cudaErrorInvalidValue);
    copy_all();
    if (device.sticky == cudaSuccess && !device.hangs)
        memset(p, value, bytes);
    return answer(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = (cudaStream_t)new_block(sizeof(**stream), false);
    return answer(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free_block(stream);
    return answer(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    if (device.hangs) {
        fprintf(stderr, "emulated device: cudaStreamSynchronize would never return\n");
        abort();
    }
    copy_all();
    return answer(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = (cudaEvent_t)new_block(sizeof(**event), false);
    if (*event != NULL)
        (*event)->copies = 0; /* of one that was never recorded all is over */
    return answer(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free_block(event);
    return answer(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    if (fails_now("record"))
        return answer(cudaErrorInvalidValue);
    event->copies = device.n_copies;
    return answer(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    pthread_mutex_lock(&device.lock);
    copy_up_to(event->copies);
    pthread_mutex_unlock(&device.lock);
    return answer(device.hangs ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t last = device.sticky != cudaSuccess ? device.sticky : device.last;

    device.last = cudaSuccess;
    return last;
}

cudaError_t cudaPeekAtLastError(void)
{
    return device.sticky != cudaSuccess ? device.sticky : device.last;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "cudaErrorInvalidValue";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorLaunchFailure ? "unspecified launch failure" : cudaGetErrorName(error);
}

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int bytes)
{
    return answer(bytes <= 227 << 10 ? cudaSuccess : cudaErrorInvalidValue);
}

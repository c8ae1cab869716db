/* F16 and BF16: see matmul_formats.h. */
#include "engine/cuda/matmul_kernels.h"

void mm_launch_16(gpu_stream stream, enum eng_type type, enum mm_path path, const struct mm_call *call)
{
    if (type == ENG_BF16)
        mm_launch<mm_half<true>>(stream, path, call);
    else
        mm_launch<mm_half<false>>(stream, path, call);
}

void mm_embed_16(gpu_stream stream, const struct gpu_weight *w, const struct gpu_step *step, float *out)
{
    if (w->type == ENG_BF16)
        mm_launch_embed<mm_half<true>>(stream, w, step, out);
    else
        mm_launch_embed<mm_half<false>>(stream, w, step, out);
}

/* cuda_rows.cu: what a row of a batch needs before and after its products: one block for each row.
 * Also the repacking of code bits at load. */
#include "backend/cuda/cuda_attend.cuh"
#include "backend/cuda/cuda_fir.cuh"
#include "backend/cuda/cuda_tiles.cuh"

namespace
{

/* ---- repacking: file order to tile order -------------------------------------------------------
 */

__global__ void repack_kernel(cu_product p, const cu_source *sources, uint32_t n_sources,
                              cu_tape tape, uint32_t *out)
{
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t step = gridDim.x * (blockDim.x >> 5);

    for (uint32_t unit = blockIdx.x * (blockDim.x >> 5) + warp; unit < p.n_units; unit += step) {
        uint32_t         row_tile = unit / p.n_ktiles, k = unit % p.n_ktiles, words[4];
        const cu_source *s = sources;

        while (row_tile >= s->tile0 + s->n_tiles)
            s++;
        for (int reg = 0; reg < 4; reg++) {
            uint32_t row = (row_tile - s->tile0) * CU_TILE_ROWS + (lane >> 2) + 8 * (reg & 1);
            uint32_t group = 8 * k + (lane & 3) + 4 * (reg >> 1);
            uint32_t block = row / 64, left = s->n_binary - block * 64;
            uint32_t rows = left >= 64 ? 64 : (left + 15) / 16 * 16;

            words[reg] = 0;
            if (row < s->n_binary && group < s->n_groups)
                words[reg] =
                    s->bits[(uint64_t)block * 64 * s->n_groups + (uint64_t)group * rows + row % 64];
        }
        ((uint4 *)out)[tile_of_unit(&p, tape, unit) * 32 + lane] =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
}

/* ---- rows -------------------------------------------------------------------------------------
 */

__device__ void mark(uint32_t *bad)
{
    atomicOr(bad, 1u);
}

__global__ void __launch_bounds__(CU_THREADS)
    embed_kernel(cu_embedding e, const cu_row *rows, float *out, uint32_t stride, uint32_t *bad)
{
    extern __shared__ float x[];
    uint32_t                token = (uint32_t)rows[blockIdx.x].token;
    float                  *to = out + (uint64_t)blockIdx.x * stride;
    bool                    good = true;

    if (e.bands == NULL) {
        for (uint32_t j = threadIdx.x; j < e.n_cols; j += CU_THREADS) {
            uint64_t at = (uint64_t)token * e.n_cols + j;

            to[j] = e.dtype == 0 ? ((const float *)e.dense)[at]
                    : e.dtype == 1
                        ? __half2float(((const __half *)e.dense)[at])
                        : __uint_as_float((uint32_t)((const uint16_t *)e.dense)[at] << 16);
            good = good && is_number(to[j]);
        }
    } else {
        const cu_band  *b = e.bands;
        uint32_t        i = 0, newest;
        const uint32_t *bits;
        float           factor;

        while (token >= b->row0 + b->n_rows)
            b++, i++;
        bits = e.bits[i];
        newest = newest_bit(b, token - b->row0);
        factor = __fmul_rn(__half2float(__ushort_as_half(b->scales[token - b->row0])), b->gain);
        for (uint32_t j = threadIdx.x; j < e.n_cols; j += CU_THREADS) {
            int value = 0;

            for (int t = 0; t < b->length; t++) {
                uint32_t row = newest - t, block = row / 64, left = b->n_binary - block * 64;
                uint32_t n = left >= 64 ? 64 : (left + 15) / 16 * 16;
                uint64_t at = (uint64_t)block * 64 * e.n_groups + (uint64_t)(j / 32) * n + row % 64;

                value += bits[at] >> j % 32 & 1 ? b->taps[t] : -b->taps[t];
            }
            x[pad(j)] = factor * (float)value;
        }
        block_sync();
        hadamard(x, e.n_cols, e.log_block);
        for (uint32_t j = threadIdx.x; j < e.n_cols; j += CU_THREADS) {
            to[j] = x[pad(j)] * e.signs[j];
            good = good && is_number(to[j]);
        }
    }
    if (!good)
        mark(bad);
}

/* x (padded, in shared memory) becomes row `row` of a prepared input. */
__device__ void prepare(float *x, const cu_prepared *to, uint32_t row, double *slots, int *sum,
                        uint32_t *bad)
{
    uint32_t n = to->width, lane = threadIdx.x & 31;
    uint64_t first = (uint64_t)row * to->stride;
    float    max = 0.0f, inverse, scale;
    int      total = 0;
    bool     good = true;

    if (!to->rotated) {
        for (uint32_t j = threadIdx.x; j < n; j += CU_THREADS)
            to->values[first + j] = x[pad(j)];
        return;
    }
    for (uint32_t j = threadIdx.x; j < n; j += CU_THREADS)
        x[pad(j)] *= to->signs[j];
    if (threadIdx.x == 0)
        *sum = 0;
    block_sync();
    hadamard(x, n, to->log_block);
    for (uint32_t j = threadIdx.x; j < n; j += CU_THREADS) {
        good = good && is_number(x[pad(j)]);
        max = fmaxf(max, fabsf(x[pad(j)]));
    }
    if (!good)
        mark(bad);
    scale = int8_scale(block_max(max, (float *)slots), &inverse);
    if (to->forms & (CU_BYTES | CU_HALVES))
        for (uint32_t w = threadIdx.x; w < words_of_tiles(to); w += CU_THREADS)
            put_tile_word(to, row, w, inverse, [&](uint32_t j) { return x[pad(j)]; });
    for (uint32_t w = threadIdx.x; w < to->stride / 4 && to->forms & CU_CODES; w += CU_THREADS) {
        float    v[4];
        uint32_t word;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t j = w / CU_TILE_WORDS * CU_TILE_COLUMNS + input_of(w % CU_TILE_WORDS, i);

            v[i] = j < n ? x[pad(j)] : 0.0f;
        }
        word = pack_codes(v, inverse);
        to->codes[first / 4 + w] = word;
        total = __dp4a((int)word, 0x01010101, total);
    }
    for (int d = 16; d > 0; d >>= 1)
        total += __shfl_xor_sync(~0u, total, d);
    if (lane == 0)
        atomicAdd(sum, total);
    block_sync();
    if (threadIdx.x == 0) {
        to->scales[row] = scale;
        to->sums[row] = *sum;
    }
}

__global__ void __launch_bounds__(CU_THREADS)
    norm_kernel(const float *x, uint32_t x_stride, const float *weight, float eps, cu_prepared to,
                uint32_t *bad)
{
    extern __shared__ float y[];
    __shared__ double       slots[32];
    __shared__ int          sum;
    const float            *from = x + (uint64_t)blockIdx.x * x_stride;
    double                  squares = 0;
    float                   inverse;

    for (uint32_t j = threadIdx.x; j < to.width; j += CU_THREADS)
        squares += (double)from[j] * (double)from[j];
    squares = block_sum(squares, slots);
    if (!is_number((float)squares))
        mark(bad);
    inverse = (float)(1.0 / sqrt(squares / to.width + (double)eps));
    for (uint32_t j = threadIdx.x; j < to.width; j += CU_THREADS)
        y[pad(j)] = from[j] * inverse * weight[j];
    block_sync();
    prepare(y, &to, blockIdx.x, slots, &sum, bad);
}

__global__ void __launch_bounds__(CU_THREADS)
    prepare_kernel(const float *x, uint32_t x_stride, cu_prepared to, uint32_t *bad)
{
    extern __shared__ float y[];
    __shared__ double       slots[32];
    __shared__ int          sum;

    for (uint32_t j = threadIdx.x; j < to.width; j += CU_THREADS)
        y[pad(j)] = x[(uint64_t)blockIdx.x * x_stride + j];
    block_sync();
    prepare(y, &to, blockIdx.x, slots, &sum, bad);
}

/* Prepares silu(gate)·up; x: gate and up side by side. */
__global__ void __launch_bounds__(CU_THREADS)
    swiglu_kernel(const float *x, uint32_t x_stride, cu_prepared to, uint32_t *bad)
{
    extern __shared__ float y[];
    __shared__ double       slots[32];
    __shared__ int          sum;
    const float            *gate = x + (uint64_t)blockIdx.x * x_stride, *up = gate + to.width;

    for (uint32_t j = threadIdx.x; j < to.width; j += CU_THREADS) {
        float g = gate[j];

        y[pad(j)] = g / (1.0f + expf(-g)) * up[j];
    }
    block_sync();
    prepare(y, &to, blockIdx.x, slots, &sum, bad);
}

__global__ void check_kernel(const float *x, uint64_t n, uint32_t *bad)
{
    bool good = true;

    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * blockDim.x)
        good = good && is_number(x[i]);
    if (!good)
        mark(bad);
}

/* ---- attention --------------------------------------------------------------------------------
 */

/* Warps take heads: q heads are turned in place, k heads turned and stored, v heads stored. */
__global__ void __launch_bounds__(CU_THREADS)
    rope_kernel(float *x, uint32_t stride, const cu_row *rows, uint8_t *const *pages, cu_kv kv,
                uint32_t layer, const float *inv_freq, const float *long_inv_freq, float scaling,
                uint32_t *bad)
{
    extern __shared__ float angles[];
    const cu_row            row = rows[blockIdx.x];
    uint32_t                half = kv.rotary_dims / 2, lane = threadIdx.x & 31;
    float                  *cosine = angles, *sine = angles + half;
    const float            *frequency = row.long_rope && long_inv_freq ? long_inv_freq : inv_freq;

    for (uint32_t i = threadIdx.x; i < half; i += CU_THREADS)
        rope_angle(row.position, frequency[i], scaling, &cosine[i], &sine[i]);
    block_sync();
    for (uint32_t head = threadIdx.x >> 5; head < kv.n_heads + 2 * kv.n_kv_heads;
         head += CU_WARPS) {
        float   *at = x + (uint64_t)blockIdx.x * stride + (uint64_t)head * kv.head_dim;
        uint32_t kv_head = head - kv.n_heads, v = 0;

        for (uint32_t i = lane; i < half && head < kv.n_heads + kv.n_kv_heads; i += 32) {
            float p = at[i], q = at[half + i];

            at[i] = p * cosine[i] - q * sine[i];
            at[half + i] = q * cosine[i] + p * sine[i];
        }
        __syncwarp();
        if (head < kv.n_heads)
            continue;
        if (kv_head >= kv.n_kv_heads)
            kv_head -= kv.n_kv_heads, v = 1;
        if (!kv_store(kv,
                      pages[row.pages + row.position / CU_PAGE_TOKENS] +
                          kv_part(kv, layer, kv_head, v),
                      row.position % CU_PAGE_TOKENS, at))
            mark(bad);
    }
}

template <int TYPE, int DIMS, int HEADS>
__global__ void __launch_bounds__(CU_THREADS)
    attention_kernel(const float *q, uint32_t q_stride, const cu_row *rows, uint8_t *const *pages,
                     cu_kv kv, uint32_t layer, uint32_t n_splits, float *partial, float *softmax)
{
    extern __shared__ float memory[];
    const cu_row            row = rows[blockIdx.y];
    uint32_t                head = blockIdx.x / n_splits, split = blockIdx.x % n_splits, begin, end;
    uint32_t                shared = kv.n_heads / kv.n_kv_heads, hd = kv.head_dim;
    const float *from = q + (uint64_t)blockIdx.y * q_stride + (uint64_t)head * shared * hd;

    for (uint32_t i = threadIdx.x; i < shared * hd; i += CU_THREADS)
        memory[i] = from[i];
    block_sync();
    split_range(row.position, kv.window, n_splits, split, &begin, &end);
    for (uint32_t h = 0; h < shared; h += HEADS) {
        uint64_t at = ((uint64_t)blockIdx.y * kv.n_heads + head * shared + h) * n_splits + split;

        attend<TYPE, DIMS, HEADS>(memory + h * hd, min(shared - h, (uint32_t)HEADS),
                                  pages + row.pages, kv, layer, head, begin, end,
                                  memory + shared * hd, partial + at * hd, n_splits * hd,
                                  softmax + 2 * at, n_splits);
    }
}

__global__ void merge_kernel(const float *partial, const float *softmax, cu_kv kv,
                             uint32_t n_splits, float *out, uint32_t out_stride)
{
    uint32_t width = kv.n_heads * kv.head_dim, j = blockIdx.x * blockDim.x + threadIdx.x;
    uint64_t head0 = (uint64_t)blockIdx.y * kv.n_heads;

    if (j < width)
        out[(uint64_t)blockIdx.y * out_stride + j] =
            merge_splits(partial + head0 * n_splits * kv.head_dim, softmax + 2 * head0 * n_splits,
                         n_splits, j / kv.head_dim, kv.head_dim, j % kv.head_dim);
}

typedef void (*attention_function)(const float *, uint32_t, const cu_row *, uint8_t *const *, cu_kv,
                                   uint32_t, uint32_t, float *, float *);

template <int TYPE> attention_function attention_of(uint32_t head_dim, uint32_t *words)
{
    constexpr int HALF = TYPE == KV_F32 ? KV_F16 : TYPE; /* f32 pages take the general form */

    if (TYPE != KV_F32 && head_dim == 128) {
        *words = attend_words<8, 4>();
        return attention_kernel<HALF, TENSOR + 8, 4>;
    }
    if (TYPE != KV_F32 && head_dim == 64) {
        *words = attend_words<4, 4>();
        return attention_kernel<HALF, TENSOR + 4, 4>;
    }
    if (head_dim <= 128) {
        *words = attend_words<8, 2>();
        return attention_kernel<TYPE, 8, 2>;
    }
    *words = attend_words<32, 1>();
    return attention_kernel<TYPE, 32, 1>;
}

template <typename F> cudaError_t allow_shared(F *kernel, size_t bytes)
{
    return bytes <= 48 << 10
               ? cudaSuccess
               : cudaFuncSetAttribute((const void *)kernel,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

} // namespace

extern "C" int cu_launch_repack(const cu_product *p, const cu_source *sources, uint32_t n_sources,
                                cu_tape tape, uint8_t *bytes, cu_stream stream)
{
    repack_kernel<<<tape.n_ctas * 4, 256, 0, stream>>>(*p, sources, n_sources, tape,
                                                       (uint32_t *)bytes);
    return cudaGetLastError();
}

extern "C" int cu_launch_embed(const cu_embedding *table, const cu_row *rows, uint32_t n_rows,
                               float *out, uint32_t stride, uint32_t *bad, cu_stream stream)
{
    size_t      bytes = padded(table->n_cols) * sizeof(float);
    cudaError_t e = allow_shared(embed_kernel, bytes);

    if (e != cudaSuccess)
        return e;
    embed_kernel<<<n_rows, CU_THREADS, bytes, stream>>>(*table, rows, out, stride, bad);
    return cudaGetLastError();
}

extern "C" int cu_launch_norm(const float *x, uint32_t x_stride, const float *weight, float eps,
                              const cu_prepared *to, uint32_t n_rows, uint32_t *bad,
                              cu_stream stream)
{
    size_t      bytes = padded(to->width) * sizeof(float);
    cudaError_t e = allow_shared(norm_kernel, bytes);

    if (e != cudaSuccess)
        return e;
    norm_kernel<<<n_rows, CU_THREADS, bytes, stream>>>(x, x_stride, weight, eps, *to, bad);
    return cudaGetLastError();
}

extern "C" int cu_launch_prepare(float *x, uint32_t x_stride, const cu_prepared *to,
                                 uint32_t n_rows, uint32_t *bad, cu_stream stream)
{
    size_t      bytes = padded(to->width) * sizeof(float);
    cudaError_t e = allow_shared(prepare_kernel, bytes);

    if (e != cudaSuccess)
        return e;
    prepare_kernel<<<n_rows, CU_THREADS, bytes, stream>>>(x, x_stride, *to, bad);
    return cudaGetLastError();
}

extern "C" int cu_launch_swiglu(const float *gate_up, uint32_t stride, const cu_prepared *to,
                                uint32_t n_rows, uint32_t *bad, cu_stream stream)
{
    size_t      bytes = padded(to->width) * sizeof(float);
    cudaError_t e = allow_shared(swiglu_kernel, bytes);

    if (e != cudaSuccess)
        return e;
    swiglu_kernel<<<n_rows, CU_THREADS, bytes, stream>>>(gate_up, stride, *to, bad);
    return cudaGetLastError();
}

extern "C" int cu_launch_check(const float *x, uint64_t n, uint32_t *bad, cu_stream stream)
{
    check_kernel<<<128, 256, 0, stream>>>(x, n, bad);
    return cudaGetLastError();
}

extern "C" int cu_launch_rope(float *x, uint32_t stride, const cu_row *rows, uint32_t n_rows,
                              uint8_t *const *pages, cu_kv kv, uint32_t layer,
                              const float *inv_freq, const float *long_inv_freq, float scaling,
                              uint32_t *bad, cu_stream stream)
{
    rope_kernel<<<n_rows, CU_THREADS, (kv.rotary_dims + 2) * sizeof(float), stream>>>(
        x, stride, rows, pages, kv, layer, inv_freq, long_inv_freq, scaling, bad);
    return cudaGetLastError();
}

extern "C" int cu_launch_attention(const float *q, uint32_t q_stride, const cu_row *rows,
                                   uint32_t n_rows, uint8_t *const *pages, cu_kv kv, uint32_t layer,
                                   uint32_t n_splits, float *partial, float *softmax,
                                   cu_stream stream)
{
    uint32_t           words;
    attention_function run = kv.type == KV_F16   ? attention_of<KV_F16>(kv.head_dim, &words)
                             : kv.type == KV_F32 ? attention_of<KV_F32>(kv.head_dim, &words)
                                                 : attention_of<KV_I8>(kv.head_dim, &words);
    size_t      bytes = (words + (size_t)kv.n_heads / kv.n_kv_heads * kv.head_dim) * sizeof(float);
    cudaError_t e = allow_shared(run, bytes);

    if (e != cudaSuccess)
        return e;
    run<<<dim3(kv.n_kv_heads * n_splits, n_rows), CU_THREADS, bytes, stream>>>(
        q, q_stride, rows, pages, kv, layer, n_splits, partial, softmax);
    return cudaGetLastError();
}

extern "C" int cu_launch_merge(const float *partial, const float *softmax, cu_kv kv,
                               uint32_t n_splits, uint32_t n_rows, float *out, uint32_t out_stride,
                               cu_stream stream)
{
    merge_kernel<<<dim3((kv.n_heads * kv.head_dim + 255) / 256, n_rows), 256, 0, stream>>>(
        partial, softmax, kv, n_splits, out, out_stride);
    return cudaGetLastError();
}

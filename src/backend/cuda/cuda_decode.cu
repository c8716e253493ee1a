/* cuda_decode.cu: coded matrices as tiles of bytes or fp16 (cuda_prompt.h).
 *
 * A warp owns the columns of a line, two groups of 32 as fp16 or four as bytes, of a run of rows.
 * 32 binary rows × 32 columns are turned over by five exchanges, after which each lane has its
 * column's bits in one register. A window of L bits is the sum of two tables' entries, one for each
 * half of it; every lane has tables of its own, in its own bank of shared memory, so that lanes
 * never wait for each other. */
#include "backend/cuda/cuda_math.cuh"
#include "backend/cuda/cuda_prompt.h"

namespace
{

enum {
    WARPS = 8,
    MAX_RUN = 128,
    MAX_TILES = 4 * MAX_RUN * 5 / CU_TILE_ROWS + 8, /* of the rows of a block */
    SPARE = 8 /* bits in front of the window that is looked up: 7 of a table's address */
};

__device__ __forceinline__ void lanes_keep(uint32_t (&keep)[5])
{
    const uint32_t masks[5] = { 0x0000FFFFu, 0x00FF00FFu, 0x0F0F0F0Fu, 0x33333333u, 0x55555555u };

#pragma unroll
    for (int i = 0; i < 5; i++)
        keep[i] = threadIdx.x & 16 >> i ? ~masks[i] : masks[i];
}

/* Lane i holds row i of a 32 × 32 bit matrix; afterwards it holds column i. keep (of lanes_keep):
 * the bits that stay at each exchange; the others come from the other lane, turned by d to the side
 * where they go. */
__device__ __forceinline__ uint32_t transpose_bits(uint32_t x, const uint32_t (&keep)[5])
{
#pragma unroll
    for (int i = 0; i < 5; i++) {
        const int      d = 16 >> i;
        const uint32_t other = __shfl_xor_sync(~0u, x, d);
        const uint32_t turn = threadIdx.x & d ? d : 32 - d;

        x = x & keep[i] | __funnelshift_r(other, other, turn) & ~keep[i];
    }
    return x;
}

/* Lane i: GROUPS words of binary row i of 32 from `row` on, of the groups from `group` on; words of
 * neighbouring groups are 16 bytes apart. */
template <int GROUPS>
__device__ __forceinline__ void load_words(cu_tape tape, const uint32_t *tiles, uint32_t first,
                                           uint32_t last, uint32_t row, uint32_t group,
                                           uint32_t (&words)[GROUPS])
{
    const uint32_t  tile = min(row / CU_TILE_ROWS, last) - first;
    const uint32_t  at = row % 8 * 16 + group % 4 * 4 + (row / 8 & 1) + 2 * (group / 4);
    const uint32_t *from = (const uint32_t *)tape.bytes + (uint64_t)tiles[tile] * 128 + at;

#pragma unroll
    for (int h = 0; h < GROUPS; h++)
        words[h] = __ldcs(from + 4 * h);
}

/* upg_int8_multiplier */
__device__ __forceinline__ int multiplier_of(const cu_band *b)
{
    int sum = 0;

#pragma unroll
    for (int i = 0; i < CU_MAX_TAPS; i++)
        sum += i < b->length ? abs(b->taps[i]) : 0;
    return min(sum > 0 ? 127 * 32768 / sum : 32767, 32767);
}

/* Tables of both halves of a window, [2][1 << HALF][32 lanes]. Bytes: twice V·M and the rounding,
 * so that a sum has the value in bits 16 … 23; else fp16 in the low half. */
template <bool BYTES, int HALF>
__device__ __forceinline__ void fill_tables(const cu_band *b, uint4 *tables)
{
    const uint32_t n = 1u << HALF;
    const int      m = BYTES ? multiplier_of(b) : 0;

    for (uint32_t i = threadIdx.x; i < 2 * n; i += 32 * WARPS) {
        uint32_t part = i >> HALF, word;
        int      value = 0;

#pragma unroll
        for (uint32_t k = 0; k < HALF; k++) {
            int tap = part * HALF + k < b->length ? b->taps[part * HALF + k] : 0;

            value += i >> k & 1 ? tap : -tap;
        }
        word = BYTES ? (uint32_t)(2 * (value * m + (part ? 0 : 16384)))
                     : (uint32_t)__half_as_ushort(__int2half_rn(value));
#pragma unroll
        for (uint32_t k = 0; k < 8; k++)
            tables[8 * i + (i + k & 7)] = make_uint4(word, word, word, word);
    }
    __syncthreads();
}

/* Row r of a band is row first + r + ((first + r) & groups) + shift of the decoded ones. */
typedef struct band_place {
    uint32_t first, groups, shift;
} band_place;

__device__ __forceinline__ band_place place_of_band(const cu_product *p, const cu_band *b,
                                                    bool paired)
{
    bool second = paired && b->row0 >= p->row0[1];

    return { b->row0 - (second ? p->row0[1] : 0), paired ? ~7u : 0, second ? 8u : 0 };
}

__device__ __forceinline__ uint32_t place_of_row(band_place at, uint32_t r)
{
    return at.first + r + (at.first + r & at.groups) + at.shift;
}

template <bool BYTES>
__device__ __forceinline__ uint32_t word_of(const uint32_t *low, const uint32_t *high)
{
    if (BYTES) {
        uint32_t x = __byte_perm(low[0] + high[0], low[1] + high[1], 0x0062);
        uint32_t y = __byte_perm(low[2] + high[2], low[3] + high[3], 0x0062);

        return __byte_perm(x, y, 0x5410);
    } else {
        uint32_t x = __byte_perm(low[0], low[1], 0x5410);
        uint32_t y = __byte_perm(high[0], high[1], 0x5410);
        __half2  sum = __hadd2(*(const __half2 *)&x, *(const __half2 *)&y);

        return *(const uint32_t *)&sum;
    }
}

/* s_r·g of the rows of a run, g as the form wants it; its 35 bits are a sum of two floats. */
template <bool BYTES>
__device__ __forceinline__ void write_factors(const cu_band *b, band_place at, uint32_t r0,
                                              uint32_t end, float *factors)
{
    float gain =
        BYTES ? (float)__ddiv_rn(__dmul_rn((double)b->gain, 32768.0), (double)multiplier_of(b))
              : b->gain;

    for (uint32_t r = r0 + (threadIdx.x & 31); r < end; r += 32) {
        double factor =
            __dmul_rn((double)__half2float(__ushort_as_half(b->scales[r])), (double)gain);
        float high = (float)factor;

        ((float2 *)factors)[place_of_row(at, r)] =
            make_float2(high, (float)(factor - (double)high));
    }
}

template <int OFFSET> __device__ __forceinline__ uint32_t entry(uint32_t shared)
{
    uint32_t x;

    asm("ld.shared.u32 %0, [%1 + %2];" : "=r"(x) : "r"(shared), "n"(OFFSET));
    return x;
}

/* grid: x runs over tiles of 256 columns, y over runs of rows, z over bands. HALF: of the bits of
 * the longest window. */
template <bool BYTES, int HALF>
__global__ void __launch_bounds__(32 * WARPS, 4)
    decode_kernel(cu_product p, cu_tape tape, cu_decoded to, uint32_t run)
{
    enum {
        GROUPS = BYTES ? 4 : 2,
        PARTS = 8 / GROUPS,
        RUNS = WARPS / PARTS,
        TABLE = 128 << HALF,          /* bytes, and where it begins a multiple of them */
        MASK = ((1 << HALF) - 1) << 7 /* a table's address, in front of the lane's */
    };
    __shared__ uint32_t     tiles[MAX_TILES]; /* where the rows' tiles lie in the tape */
    extern __shared__ uint4 memory[];
    const cu_band          *b = p.bands + blockIdx.z;
    const uint32_t          lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = warp % PARTS;
    const uint32_t          n_rows = b->n_rows, length = b->length, k0 = b->k0, k1 = b->k1;
    const uint32_t          run0 = blockIdx.y * RUNS * run, r0 = run0 + warp / PARTS * run;
    const uint32_t          end = min(r0 + run, n_rows), tile0 = b->u0 / CU_TILE_ROWS;
    const uint32_t          shared = (uint32_t)__cvta_generic_to_shared(memory);
    const uint32_t          base = shared + TABLE - 1 & ~(TABLE - 1u), at = 4 * lane;
    const uint32_t          mine = base | at;
    const band_place        place = place_of_band(&p, b, to.paired);
    uint32_t                loaded, first, last, newest, ahead[GROUPS], keep[5];
    uint64_t                bits[GROUPS]; /* bit i: binary row `loaded` − 1 − i */
    uint8_t *line = to.tiles + (uint64_t)(blockIdx.x * PARTS + part) * to.n_groups * CU_GROUP_BYTES;

    if (run0 >= n_rows)
        return;
    first = ((newest_bit(b, run0) + 1 - length) & ~31u) / CU_TILE_ROWS;
    last = min((b->n_binary - 1) / CU_TILE_ROWS,
               newest_bit(b, min(run0 + RUNS * run, n_rows) - 1) / CU_TILE_ROWS + 4);
    for (uint32_t i = first + threadIdx.x; i <= last; i += 32 * WARPS)
        tiles[i - first] = (uint32_t)tile_of_unit(&p, tape, (tile0 + i) * p.n_ktiles + blockIdx.x);
    fill_tables<BYTES, HALF>(b, memory + (base - shared) / sizeof(uint4));
    if (r0 >= n_rows)
        return;
    if (blockIdx.x == 0 && part == 0)
        write_factors<BYTES>(b, place, r0, end, to.factors);
    newest = newest_bit(b, r0);
    loaded = (newest + 1 - length) & ~31u;
    load_words<GROUPS>(tape, tiles, first, last, loaded + lane, GROUPS * part, ahead);
#pragma unroll
    for (int h = 0; h < GROUPS; h++)
        bits[h] = 0;
    lanes_keep(keep);
    asm("" : "+l"(line)); /* kept, not computed again for every row */
    for (uint32_t r = r0; r < end; r += 2) {
        const uint32_t second = newest + k1; /* r is even */

        while (loaded <= second + SPARE) { /* 32 more binary rows; the next are on their way */
            uint32_t words[GROUPS];

#pragma unroll
            for (int h = 0; h < GROUPS; h++)
                words[h] = ahead[h];
            loaded += 32;
            load_words<GROUPS>(tape, tiles, first, last, loaded + lane, GROUPS * part, ahead);
#pragma unroll
            for (int h = 0; h < GROUPS; h++)
                bits[h] = bits[h] << 32 | __brev(transpose_bits(words[h], keep));
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const uint32_t shift = loaded - SPARE - (e ? second : newest);
            const uint32_t row = place_of_row(place, r + e);
            uint32_t       low[GROUPS], high[GROUPS];

#pragma unroll
            for (int h = 0; h < GROUPS; h++) {
                low[h] = entry<0>((uint32_t)(bits[h] >> shift) & MASK | mine);
                high[h] = entry<TABLE>((uint32_t)(bits[h] >> (shift + HALF)) & MASK | mine);
            }
            if (e == 0 || r + e < end)
                *(uint32_t *)(line + row * CU_LINE_BYTES + (at ^ (row & 7) << 4)) =
                    word_of<BYTES>(low, high);
        }
        newest = second + k0;
    }
}

typedef void (*decode_function)(cu_product, cu_tape, cu_decoded, uint32_t);

template <bool BYTES> decode_function decode_of(uint32_t half)
{
    return half <= 6   ? decode_kernel<BYTES, 6>
           : half == 7 ? decode_kernel<BYTES, 7>
                       : decode_kernel<BYTES, 8>;
}

} // namespace

extern "C" int cu_launch_decode(const cu_product *p, cu_tape tape, const cu_decoded *to,
                                cu_stream stream)
{
    const bool      bytes = to->form == CU_BYTES;
    const uint32_t  runs = bytes ? 4 : 2, half = (p->max_length + 1) / 2;
    const size_t    shared = (size_t)(3 * 128) << (half < 6 ? 6 : half); /* with room to align */
    decode_function kernel = bytes ? decode_of<true>(half) : decode_of<false>(half);
    uint32_t        run = MAX_RUN;
    cudaError_t     e;

    while (run > 32 && p->n_rows / (runs * run) * p->n_ktiles < 1000)
        run /= 2;
    e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)shared);
    if (e != cudaSuccess)
        return e;
    kernel<<<dim3(p->n_ktiles, (p->n_rows + runs * run - 1) / (runs * run), p->n_bands), 32 * WARPS,
             shared, stream>>>(*p, tape, *to, run);
    return cudaGetLastError();
}

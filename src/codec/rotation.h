/* rotation.h: the input-side rotation x' = H·D·x/√B that makes weights near Gaussian.
 *
 * D holds random signs, H is the Sylvester-ordered Walsh-Hadamard matrix applied to each block of B
 * inputs, B the largest power of two that divides the width, at most 1024. The same map on every
 * row of W gives W' with W'·x' = W·x. The inverse is x = D·Hᵀ·x'/√B. */
#ifndef UPG_CODEC_ROTATION_H
#define UPG_CODEC_ROTATION_H

#include <stddef.h>
#include <stdint.h>

enum { UPG_ROTATION_MAX_BLOCK = 1024 };

typedef struct upg_rotation {
    uint32_t width; /* inputs */
    uint32_t block; /* B; 1 = signs only */
    uint64_t seed;  /* sign of input j is − when bit j%64 of upg_random_u64(seed, j/64) is 1 */
} upg_rotation;

/** The rotation for a width: picks the block size. width ≥ 1. */
upg_rotation upg_rotation_make(uint32_t width, uint64_t seed);
/** signs f32 [width]: +1 or −1. */
void upg_rotation_signs(const upg_rotation *rotation, float *signs);
/** Blockwise orthonormal Walsh-Hadamard in place: x f32 [n], block a power of two dividing n. The
 * butterflies of distance 1 come first, then 2, 4, …; then one multiplication by 1/√block. */
void upg_hadamard(size_t n, size_t block, float *x);
/** In place, x f32 [n][width]. Bit-identical to the SIMD kernels (additions in butterfly order,
 * then one multiplication by 1/√B). signs as above. */
void upg_rotation_apply(const upg_rotation *rotation, const float *signs, float *x, uint32_t n);
/** The inverse, in place. */
void upg_rotation_undo(const upg_rotation *rotation, const float *signs, float *x, uint32_t n);

#endif

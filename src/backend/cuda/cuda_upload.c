/* cuda_upload.c: weights to the device, once.
 *
 * Files are mapped; pages come through two pinned buffers, so that reading one overlaps copying the
 * other. The raw bits of an op land in a staging area, where the repacking kernel takes them from
 * in stream order. */
#include <string.h>

#include "backend/cuda/cuda_backend.h"

enum { PINNED_BYTES = 16 << 20 };

upg_status upg_cuda_upload(cuda_backend *b, void *to, const void *from, size_t bytes,
                           upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t done = 0, turn = 0; done < bytes; turn ^= 1) {
        size_t n = bytes - done < PINNED_BYTES ? bytes - done : PINNED_BYTES;

        UPG_TRY(upg_cuda_check(cudaEventSynchronize(b->copied[turn]), "copying weights", err));
        memcpy(b->pinned[turn], (const uint8_t *)from + done, n);
        UPG_TRY(upg_cuda_check(cudaMemcpyAsync((uint8_t *)to + done, b->pinned[turn], n,
                                               cudaMemcpyHostToDevice, b->stream),
                               "copying weights", err));
        UPG_TRY(
            upg_cuda_check(cudaEventRecord(b->copied[turn], b->stream), "copying weights", err));
        done += n;
    }
out:
    return st;
}

static upg_status upload_coded(cuda_backend *b, const upg_op *op, cuda_op *bound, upg_error *err)
{
    static const uint32_t limit = 256;
    cu_source             sources[256];
    uint32_t              n = 0;
    size_t                used = limit * sizeof *sources;
    upg_status            st = UPG_OK;

    for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++) {
        const upg_coded_matrix *m = op->w[w]->coded;

        for (uint32_t i = 0; i < m->n_bands; i++, n++) {
            const upg_band *band = &m->bands[i];
            size_t          bytes = 4 * (size_t)upg_band_words(band->n_binary, m->n_cols);

            sources[n] =
                (cu_source) { (const uint32_t *)(void *)(b->staging + used), band->n_binary,
                              upg_group_count(m->n_cols), bound->bands[n].u0 / CU_TILE_ROWS,
                              (band->n_binary + CU_TILE_ROWS - 1) / CU_TILE_ROWS };
            UPG_TRY(upg_cuda_upload(b, b->staging + used, band->bits, bytes, err));
            used += (bytes + 255) / 256 * 256;
        }
    }
    UPG_TRY(upg_cuda_upload(b, b->staging, sources, n * sizeof *sources, err));
    UPG_TRY(
        upg_cuda_check(cu_launch_repack(&bound->product, (const cu_source *)(void *)b->staging, n,
                                        b->tape, (uint8_t *)(uintptr_t)b->tape.bytes, b->stream),
                       "repacking weights", err));
out:
    return st;
}

static upg_status upload_dense(cuda_backend *b, const upg_matrix *m, const void *to, upg_error *err)
{
    return upg_cuda_upload(b, (void *)(uintptr_t)to, m->dense,
                           (size_t)m->n_rows * m->n_cols * upg_dtype_bytes(m->dtype), err);
}

static upg_status upload_embedding(cuda_backend *b, const upg_matrix *m, const cuda_op *bound,
                                   upg_error *err)
{
    upg_status st = UPG_OK;

    if (m->kind == UPG_MATRIX_DENSE)
        return upload_dense(b, m, bound->dense[0], err);
    for (uint32_t i = 0; i < m->coded->n_bands; i++) {
        const upg_band *band = &m->coded->bands[i];
        /* the table of these addresses is part of the blob's host image */
        const uint32_t *const *bits =
            (const uint32_t *const *)(const void *)(b->blob + ((const uint8_t *)b->embedding.bits -
                                                               b->blob_device));

        UPG_TRY(upg_cuda_upload(b, (void *)(uintptr_t)bits[i], band->bits,
                                4 * (size_t)upg_band_words(band->n_binary, m->n_cols), err));
    }
out:
    return st;
}

upg_status upg_cuda_upload_weights(cuda_backend *b, upg_error *err)
{
    upg_status st;

    UPG_TRY(upg_cuda_upload(b, b->blob_device, b->blob, b->blob_used, err));
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];

        if (op->code == UPG_OP_EMBED)
            UPG_TRY(upload_embedding(b, op->w[0], &b->ops[i], err));
        else if (b->ops[i].coded)
            UPG_TRY(upload_coded(b, op, &b->ops[i], err));
        for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++)
            if (op->code != UPG_OP_EMBED && !b->ops[i].coded)
                UPG_TRY(upload_dense(b, op->w[w], b->ops[i].dense[w], err));
    }
    UPG_TRY(upg_cuda_upload_outliers(b, err));
    UPG_TRY(upg_cuda_check(cudaStreamSynchronize(b->stream), "copying weights", err));
out:
    return st;
}

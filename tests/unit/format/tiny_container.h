/* tiny_container.h: a small but complete .upg for the tests of the container: two coded matrices
 * (bands of several rates, a half rate, odd sizes), two dense tensors, parts. */
#ifndef UPG_TESTS_TINY_CONTAINER_H
#define UPG_TESTS_TINY_CONTAINER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"
#include "format/container_layout.h"
#include "format/container_writer.h"

#define TINY_REPORT "{\"kl\":0.0125}"

typedef struct tiny {
    upg_band_plan      embed_bands[3], head_bands[1];
    upg_matrix_plan    matrices[2];
    upg_st_entry       dense[2];
    upg_container_plan plan;
} tiny;

static inline upg_span tiny_text(const char *text)
{
    return (upg_span) { (const uint8_t *)text, strlen(text) };
}

static inline void tiny_init(tiny *t)
{
    *t = (tiny) { 0 };
    t->embed_bands[0] = (upg_band_plan) { 8, *upg_code_find(8, 12) };
    t->embed_bands[1] = (upg_band_plan) { 21, *upg_code_find(5, 12) };
    t->embed_bands[2] = (upg_band_plan) { 11, *upg_code_find(4, 12) };
    t->head_bands[0] = (upg_band_plan) { 33, *upg_code_find(6, 12) };
    t->matrices[0] =
        (upg_matrix_plan) { "model.embed_tokens.weight", 40, 64, 7, 3, t->embed_bands, { 0 } };
    t->matrices[1] =
        (upg_matrix_plan) { "lm_head.weight", 33,   70, UINT64_C(0xFEDCBA9876543210), 1,
                            t->head_bands,    { 0 } };
    t->dense[0] = (upg_st_entry) { "model.norm.weight", UPG_F32, 1, { 33 } };
    t->dense[1] = (upg_st_entry) { "model.bias", UPG_BF16, 2, { 3, 5 } };
    t->plan = (upg_container_plan) { .n_matrices = 2,
                                     .matrices = t->matrices,
                                     .n_dense = 2,
                                     .dense = t->dense,
                                     .source_bytes = 12345,
                                     .options_json = "{\"bpw\":3.2,\"seed\":1}",
                                     .quality_capacity = 1000 };
    t->plan.parts[UPG_PART_CONFIG] = tiny_text("{\"model_type\":\"tiny\"}");
    t->plan.parts[UPG_PART_TOKENIZER] = tiny_text("{\"model\":\"BPE\"}");
    t->plan.parts[UPG_PART_CHAT_TEMPLATE] = tiny_text("{{ messages }}");
}

/* Pseudorandom bytes that depend on the tensor's slot alone. */
static inline void tiny_fill(uint64_t slot, void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)upg_random_u64(slot, i);
}

static inline upg_status tiny_write_weights(const tiny *t, upg_container_writer *w, upg_error *err)
{
    static _Alignas(64) uint8_t bytes[65536];
    upg_status                  st = UPG_OK;

    for (size_t m = 0; m < 2 && st == UPG_OK; m++) {
        const upg_matrix_plan *p = &t->matrices[m];

        tiny_fill(m, bytes, sizeof bytes);
        for (uint32_t b = 0; b < p->n_bands && st == UPG_OK; b++) {
            uint64_t        first = upg_plan_words_before(p, b);
            uint64_t        n = upg_plan_words_before(p, b + 1) - first, half = n / 2;
            const uint32_t *words = (const uint32_t *)(const void *)bytes + first;

            /* in two pieces, the second one first */
            st = upg_container_write_code(w, m, b, half, words + half, (size_t)(n - half), err);
            if (st == UPG_OK)
                st = upg_container_write_code(w, m, b, 0, words, (size_t)half, err);
        }
        tiny_fill(100 + m, bytes, sizeof bytes);
        if (st == UPG_OK)
            st = upg_container_write_scales(w, m, 0, (const uint16_t *)(const void *)bytes,
                                            p->n_rows, err);
    }
    for (size_t d = 0; d < 2 && st == UPG_OK; d++) {
        tiny_fill(200 + d, bytes, sizeof bytes);
        st = upg_container_write_dense(w, d, 0, bytes, d == 0 ? 132 : 30, err);
    }
    return st;
}

/* Writes the whole file. */
static inline upg_status tiny_write(const tiny *t, const char *path, bool overwrite,
                                    const char *report, upg_pool *pool, upg_error *err)
{
    upg_container_writer *w = NULL;
    upg_status            st = upg_container_writer_create(path, overwrite, &t->plan, &w, err);

    if (st != UPG_OK)
        return st;
    st = tiny_write_weights(t, w, err);
    if (st != UPG_OK) {
        upg_container_discard(w);
        return st;
    }
    upg_container_set_error(w, 0, 0.0191);
    return upg_container_finish(w, tiny_text(report), pool, NULL, err);
}

/* A fresh folder in /tmp; the test removes it with tiny_remove. */
static inline char *tiny_folder(void)
{
    static char folder[] = "/tmp/upg_container_test.XXXXXX";

    memcpy(strrchr(folder, '.') + 1, "XXXXXX", 6);
    return mkdtemp(folder);
}

/* The whole file in memory at a 64-byte boundary; the caller frees. */
static inline uint8_t *tiny_read(const char *path, size_t *size)
{
    FILE    *file = fopen(path, "rb");
    uint8_t *bytes;

    if (file == NULL)
        return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    bytes = aligned_alloc(64, (*size + 127) / 64 * 64);
    if (bytes != NULL && fread(bytes, 1, *size, file) != *size)
        *size = 0;
    fclose(file);
    return bytes;
}

static inline bool tiny_save(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    bool  ok = file != NULL && fwrite(bytes, 1, size, file) == size;

    return (file == NULL || fclose(file) == 0) && ok;
}

#endif

/* Text, after one byte whose lowest bit says whether special tokens are meant. What is not UTF-8 is
 * refused at its first bad byte; all other text decodes back, but for white space beside <|a|>. */
#include <string.h>

#include "tokenizer/utf8.h"
#include "tokenizer_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ids(const upg_tokenizer *t, const upg_token_array *ids, const uint8_t *text,
                      size_t size, bool special)
{
    upg_buffer back;
    bool       strips = false;

    for (size_t i = 0; i < ids->size; i++) {
        must(ids->ids[i] >= 0 && ids->ids[i] < SAMPLE_IDS);
        must(special || ids->ids[i] < SAMPLE_A);
        strips |= ids->ids[i] == SAMPLE_A;
    }
    upg_buffer_init(&back, 4 * size + 1);
    must(upg_tokenizer_decode(t, ids->ids, ids->size, false, &back, NULL) == UPG_OK);
    must(strips ? back.size <= size
                : back.size == size && (size == 0 || memcmp(back.data, text, size) == 0));
    upg_buffer_deinit(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static upg_tokenizer *t;
    upg_token_array       ids = { 0 };
    upg_error             err = { 0 };
    bool                  special = size > 0 && data[0] & 1;
    upg_status            st;
    int32_t               few[3];
    size_t                n;

    if (t == NULL)
        t = sample_tokenizer();
    if (size == 0)
        return 0;
    data++;
    size--;
    st = upg_tokenizer_append(t, (const char *)data, size, special, &ids, &err);
    must(st == (upg_utf8_valid_bytes(data, size) == size ? UPG_OK : UPG_E_DATA));
    if (st == UPG_OK) {
        check_ids(t, &ids, data, size, special);
        st = upg_tokenizer_encode(t, (const char *)data, size, special, few, 3, &n, &err);
        must(n == ids.size && st == (n > 3 ? UPG_E_BUFFER : UPG_OK));
        must(n == 0 || memcmp(few, ids.ids, (n < 3 ? n : 3) * sizeof *few) == 0);
    }
    upg_token_array_deinit(&ids);
    return 0;
}

/* tokenizer.json, and after NUL bytes tokenizer_config.json and a chat template. What is accepted
 * can encode and decode any text. */
#include <string.h>

#include "tokenizer/chat_template.h"
#include "tokenizer_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Cuts the next part off, up to a NUL byte or the end. */
static upg_span next_part(const uint8_t **data, size_t *size)
{
    const uint8_t *nul = *size > 0 ? memchr(*data, 0, *size) : NULL;
    upg_span       part = { *data, nul != NULL ? (size_t)(nul - *data) : *size };
    size_t         used = part.size + (nul != NULL ? 1 : 0);

    *data += used;
    *size -= used;
    return part;
}

static void use(const upg_tokenizer *t)
{
    static const char text[] =
        "The quick  brown\n<|im_end|> f\xC3\xB6x 12345's \xF0\x9F\x98\x80<|a|>";
    upg_token_array  ids = { 0 };
    upg_buffer       back;
    upg_chat_message message = { "user", text, sizeof text - 1 };
    upg_error        err = { 0 };
    int32_t          ends[UPG_CHAT_MAX_ENDS];

    upg_buffer_init(&back, 1 << 20);
    for (int special = 0; special < 2; special++) {
        upg_status st = upg_tokenizer_append(t, text, sizeof text - 1, special, &ids, &err);

        must(st == UPG_OK || err.message[0] != '\0');
    }
    for (size_t i = 0; i < ids.size; i++)
        must(ids.ids[i] >= 0 && (size_t)ids.ids[i] < upg_tokenizer_vocab_size(t));
    must(upg_tokenizer_decode(t, ids.ids, ids.size, true, &back, &err) == UPG_OK);
    (void)upg_chat_append(t, &message, 1, true, false, &ids, &err);
    (void)upg_chat_append(t, &message, 1, true, true, &ids, &err);
    must(upg_chat_end_ids(t, ends) <= UPG_CHAT_MAX_ENDS);
    upg_buffer_deinit(&back);
    upg_token_array_deinit(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    upg_tokenizer      *t;
    upg_error           err = { 0 };
    upg_tokenizer_files files;
    upg_status          st;

    files.tokenizer_json = next_part(&data, &size);
    files.config_json = next_part(&data, &size);
    files.chat_template = next_part(&data, &size);
    st = upg_tokenizer_load_files(&files, &t, &err);
    must((st == UPG_OK) == (t != NULL));
    if (st == UPG_OK)
        use(t);
    else
        must(err.code == st && err.message[0] != '\0');
    upg_tokenizer_release(t);
    return 0;
}

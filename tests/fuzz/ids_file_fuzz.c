/* ids_file_fuzz.c: .npy files of token ids. */
#include <stdint.h>
#include <stdlib.h>

#include "ids_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cli_ids    array;
    upg_error  err;
    upg_status st = cli_ids_parse("fuzz.npy", data, size, &array, &err);

    if (st == UPG_OK && array.n != array.windows * array.window)
        abort();
    if (st != UPG_OK && (array.tokens || err.message[0] == '\0'))
        abort();
    free(array.tokens);
    return 0;
}

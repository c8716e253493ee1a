/* consumer.c: the smallest program against an installed libupg: version, then the error path. */
#include <stdio.h>
#include <string.h>

#include <upg/upg.h>

int main(void)
{
    upg_error      err;
    upg_tokenizer *tokenizer = NULL;
    upg_status     status = upg_tokenizer_open("/no/such/folder", &tokenizer, &err);

    if (strcmp(upg_version(), UPG_VERSION) != 0 || upg_abi_version() != UPG_ABI_VERSION) {
        fprintf(stderr, "header %s, library %s\n", UPG_VERSION, upg_version());
        return 1;
    }
    if (status != UPG_E_NOT_FOUND || tokenizer || !err.message[0]) {
        fprintf(stderr, "opening nothing gave \"%s\"\n", upg_status_text(status));
        return 1;
    }
    printf("upg %s\n", upg_version());
    return 0;
}

/* char_class.h: what a code point is to a pre-tokenizer: letter, number, space or other.
 *
 * The tables are fixed at Unicode 16.0, the version that the reference tokenizers use. Libraries of
 * other versions would split new letters differently, so none is asked. */
#ifndef UPG_TOKENIZER_CHAR_CLASS_H
#define UPG_TOKENIZER_CHAR_CLASS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum upg_char_class {
    UPG_CHAR_OTHER,
    UPG_CHAR_LETTER, /* general category L */
    UPG_CHAR_NUMBER, /* general category N */
    UPG_CHAR_SPACE   /* White_Space */
} upg_char_class;

enum { UPG_CHAR_CLASS_END = 0x32400 }; /* from here on all are other */

extern const uint8_t upg_char_class_index[UPG_CHAR_CLASS_END / 128];
extern const uint8_t upg_char_class_blocks[][32];

static inline upg_char_class upg_char_class_of(uint32_t code_point)
{
    const uint8_t *block;

    if (code_point >= UPG_CHAR_CLASS_END)
        return UPG_CHAR_OTHER;
    block = upg_char_class_blocks[upg_char_class_index[code_point / 128]];
    return (upg_char_class)(block[code_point / 4 % 32] >> 2 * (code_point % 4) & 3);
}

#endif

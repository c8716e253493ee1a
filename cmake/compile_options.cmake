# Flags for our own code: upg_compile_options(target) sets them privately.
set(upg_warnings -Wall -Wextra -Wpedantic -Wvla -Wshadow -Wstrict-prototypes -Wmissing-prototypes
                 -Wpointer-arith -Wwrite-strings
                 # A struct names what differs from zero: zero is the default everywhere.
                 -Wno-missing-field-initializers)
if(UPG_WERROR)
    list(APPEND upg_warnings -Werror)
endif()

function(upg_compile_options target)
    target_compile_options(${target} PRIVATE ${upg_warnings})
    target_compile_definitions(${target} PRIVATE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
        target_compile_definitions(${target} PRIVATE _GNU_SOURCE)
    endif()
endfunction()

if(UPG_SANITIZE)
    add_compile_options(-fsanitize=${UPG_SANITIZE} -fno-omit-frame-pointer
                        -fno-sanitize-recover=all)
    add_link_options(-fsanitize=${UPG_SANITIZE})
endif()

# A file named *_avx2.c, *_avx512.c or *_dotprod.c holds code for that ISA alone; select.c decides at
# run time. NEON is part of every 64-bit ARM processor and needs no flags.
set(upg_flags_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2)
set(upg_flags_avx512 ${upg_flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi
                     -mavx512vnni -mprefer-vector-width=512)
set(upg_flags_dotprod -march=armv8.2-a+dotprod)

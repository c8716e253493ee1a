# Each layer of src/ becomes a static library upg_<layer> that links the layers below it. src/LAYERS
# says the same for #include lines; scripts/check_layers.py compares.
function(upg_layer name)
    cmake_parse_arguments(arg "" "" "USES;LIBS" ${ARGN})
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.c)
    if(name STREQUAL "kernels")
        if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
            list(FILTER sources EXCLUDE REGEX "/x86/")
        endif()
        if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
            list(FILTER sources EXCLUDE REGEX "/arm/")
        endif()
    elseif(name STREQUAL "backend")
        list(FILTER sources EXCLUDE REGEX "/(cuda|vulkan)/")
    endif()
    foreach(source IN LISTS sources)
        if(source MATCHES "_(avx2|avx512)\\.c$")
            set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                                        "${upg_flags_${CMAKE_MATCH_1}}")
        endif()
    endforeach()
    if(NOT sources)
        add_library(upg_${name} INTERFACE)
        target_link_libraries(upg_${name} INTERFACE ${arg_USES} ${arg_LIBS})
        return()
    endif()
    add_library(upg_${name} STATIC ${sources})
    upg_compile_options(upg_${name})
    target_include_directories(upg_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src
                                                  ${PROJECT_SOURCE_DIR}/include)
    target_link_libraries(upg_${name} PUBLIC ${arg_USES} ${arg_LIBS})
    if(name MATCHES "^(base|safetensors|format|tokenizer)$")
        target_compile_options(upg_${name} PRIVATE -Wconversion)
    elseif(name MATCHES "^(codec|compress|kernels)$")
        # Equal input must give equal bytes on every ISA.
        target_compile_options(upg_${name} PRIVATE -ffp-contract=off)
    endif()
    set_property(GLOBAL APPEND PROPERTY upg_layer_objects $<TARGET_OBJECTS:upg_${name}>)
    set_property(GLOBAL APPEND PROPERTY upg_layer_libs ${arg_LIBS})
endfunction()

upg_layer(base LIBS PkgConfig::JANSSON Threads::Threads m)
upg_layer(safetensors USES upg_base)
upg_layer(codec USES upg_base)
upg_layer(tokenizer USES upg_base LIBS PkgConfig::PCRE2)
upg_layer(kernels USES upg_codec)
upg_layer(format USES upg_safetensors upg_codec LIBS PkgConfig::XXHASH)
upg_layer(model USES upg_format)
upg_layer(program USES upg_model)
upg_layer(backend USES upg_program upg_kernels)
upg_layer(compress USES upg_backend upg_tokenizer LIBS PkgConfig::OPENBLAS)
upg_layer(runtime USES upg_backend upg_tokenizer)
upg_layer(api USES upg_compress upg_runtime)

# The default calibration text as a C array.
set(calibration_text ${PROJECT_SOURCE_DIR}/data/calibration/default.txt)
set(calibration_array ${CMAKE_BINARY_DIR}/default_calibration.c)
set(calibration_script ${PROJECT_SOURCE_DIR}/cmake/embed_file.cmake)
add_custom_command(OUTPUT ${calibration_array} DEPENDS ${calibration_text} ${calibration_script}
                   COMMAND ${CMAKE_COMMAND} -DINPUT=${calibration_text}
                           -DOUTPUT=${calibration_array} -DNAME=upg_default_calibration
                           -DHEADER=compress/default_calibration.h -P ${calibration_script}
                   COMMENT "Embedding the calibration text" VERBATIM)
target_sources(upg_compress PRIVATE ${calibration_array})

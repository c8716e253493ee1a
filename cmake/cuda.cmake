# -DUPG_CUDA=ON: libupg_cuda.so, the module that the library loads at run time when a GPU is asked
# for. The CUDA run-time library is linked into it, so it needs the driver alone.
option(UPG_CUDA "Build the module for NVIDIA GPUs (needs nvcc 12 or newer)" OFF)
if(NOT UPG_CUDA)
    return()
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
    # Binaries for these, PTX of the newest for what comes after.
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 100-real 120)
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(upg_nvcc nvcc HINTS /usr/local/cuda/bin REQUIRED)
    set(CMAKE_CUDA_COMPILER ${upg_nvcc})
endif()
enable_language(CUDA)

file(GLOB upg_cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/backend/cuda/*.c
                                             ${PROJECT_SOURCE_DIR}/src/backend/cuda/*.cu)
add_library(upg_cuda MODULE ${upg_cuda_sources})
set_target_properties(upg_cuda PROPERTIES CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static
                      CUDA_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
target_compile_options(upg_cuda PRIVATE $<$<COMPILE_LANGUAGE:C>:${upg_warnings}>
                       $<$<COMPILE_LANGUAGE:CUDA>:--threads=0>)
target_compile_definitions(upg_cuda PRIVATE _GNU_SOURCE)
target_include_directories(upg_cuda PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(upg_cuda PRIVATE upg_program upg_kernels)
# Of the static layers only what the module uses comes along, and nothing of it shows outside.
target_link_options(upg_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)
install(TARGETS upg_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})

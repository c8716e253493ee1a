# make install: the program and its manual page, headers, static and shared library, the pkg-config
# file and the CMake package; make package: the same as .tar.gz and .deb.
include(CMakePackageConfigHelpers)

set_target_properties(upg_static PROPERTIES EXPORT_NAME static)
set_target_properties(upg_shared PROPERTIES EXPORT_NAME shared)

install(DIRECTORY include/upg DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES docs/upg.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES LICENSE CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(TARGETS upg_shared EXPORT upg_shared
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS upg_static EXPORT upg_static
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

# What an embedder of the static library must link, from the list that the library itself links:
# pkg-config modules, threads, plain names and paths.
set(upg_pc_modules "")
set(upg_pc_libs "")
set(upg_config_modules "")
foreach(lib IN LISTS upg_libs)
    if(lib MATCHES "^PkgConfig::(.+)$")
        if(CMAKE_MATCH_1 STREQUAL "HWLOC") # whose own file asks for libraries Debian doesn't bring
            list(APPEND upg_pc_libs -lhwloc)
        else()
            list(APPEND upg_pc_modules ${${CMAKE_MATCH_1}_MODULE_NAME})
        endif()
        list(APPEND upg_config_modules "${CMAKE_MATCH_1}=${${CMAKE_MATCH_1}_MODULE_NAME}")
    elseif(lib STREQUAL "Threads::Threads")
        list(APPEND upg_pc_libs -pthread)
    elseif(lib MATCHES "^[-/]")
        list(APPEND upg_pc_libs ${lib})
    elseif(lib MATCHES "::")
        message(FATAL_ERROR "install.cmake: how does an embedder find ${lib}?")
    else()
        list(APPEND upg_pc_libs -l${lib})
    endif()
endforeach()
list(JOIN upg_pc_modules " " upg_pc_modules)
list(JOIN upg_pc_libs " " upg_pc_libs)

configure_file(cmake/upg.pc.in upg.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/upg.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(upg_package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/upg)
configure_package_config_file(cmake/upg-config.cmake.in upg-config.cmake
                              INSTALL_DESTINATION ${upg_package_folder})
write_basic_package_version_file(upg-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/upg-config.cmake ${PROJECT_BINARY_DIR}/upg-config-version.cmake
        DESTINATION ${upg_package_folder})
install(EXPORT upg_shared NAMESPACE upg:: FILE upg-shared.cmake DESTINATION ${upg_package_folder})
install(EXPORT upg_static NAMESPACE upg:: FILE upg-static.cmake DESTINATION ${upg_package_folder})

set(CPACK_GENERATOR TGZ)
if(EXISTS /usr/bin/dpkg-shlibdeps)
    list(APPEND CPACK_GENERATOR DEB)
endif()
set(CPACK_PACKAGE_NAME upg)
set(CPACK_PACKAGE_CONTACT "The upg maintainers <upg@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_STRIP_FILES ON)
include(CPack)

# libupg, static and shared, from the objects of all layers, with everything an embedder needs.
get_property(upg_objects GLOBAL PROPERTY upg_layer_objects)
get_property(upg_libs GLOBAL PROPERTY upg_layer_libs)
list(REMOVE_DUPLICATES upg_libs)

add_library(upg_static STATIC ${upg_objects})
add_library(upg_shared SHARED ${upg_objects})
foreach(target upg_static upg_shared)
    set_target_properties(${target} PROPERTIES OUTPUT_NAME upg VERSION ${PROJECT_VERSION}
                          SOVERSION 0 LINKER_LANGUAGE C)
    target_include_directories(${target} PUBLIC
                               $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()
target_link_libraries(upg_static PUBLIC ${upg_libs})
target_link_libraries(upg_shared PRIVATE ${upg_libs})
add_library(upg::upg ALIAS upg_static)

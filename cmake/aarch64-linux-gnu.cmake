# Toolchain: 64-bit ARM Linux from another machine; programs run in qemu's user mode.
#
# Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user. Libraries of that architecture are
# looked for below UPG_SYSROOT, an unpacked tree of packages such as scripts/test_arm.sh makes, or
# when it is empty where Debian's own arm64 packages would be installed.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

set(UPG_SYSROOT "" CACHE PATH "Where libraries for arm64 were unpacked")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES UPG_SYSROOT)
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${UPG_SYSROOT}")
set(ENV{PKG_CONFIG_LIBDIR}
    "${UPG_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${UPG_SYSROOT}/usr/share/pkgconfig")

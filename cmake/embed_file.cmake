# cmake -DINPUT=FILE -DOUTPUT=FILE.c -DNAME=c_name -DHEADER=path.h -P embed_file.cmake
# Writes FILE as a C array `NAME` and its size `NAME_size`, declared in HEADER.
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)"
       "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT}
     "#include \"${HEADER}\"\n\nconst unsigned char ${NAME}[] = {\n${bytes}\n};\n"
     "const size_t ${NAME}_size = ${size};\n")

# .npy files that are no token ids: named with field and value.
python3 - <<'END'
def save(name, descr, shape, data, order="False"):
    header = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (descr, order, shape)
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    with open(name, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data)
save("float.npy", "<f4", "(1, 4)", bytes(16))
save("fortran.npy", "<u2", "(2, 4)", bytes(16), "True")
save("cut.npy", "<u2", "(2, 4)", bytes(15))
save("range.npy", "<u2", "(1, 4)", b"\1\0\2\0\3\0\xff\xff")
save("negative.npy", "<i4", "(1, 4)", b"\1\0\0\0\2\0\0\0\3\0\0\0\xff\xff\xff\xff")
END
for file in float fortran cut range negative; do
    try upg eval micro.upg --ids $file.npy --quiet
done

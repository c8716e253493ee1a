# The version is that of the header.
upg --version | sed -E 's/[0-9]+\.[0-9]+\.[0-9]+/X.Y.Z/'

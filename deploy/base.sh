#!/usr/bin/env bash
# Make the base image from Debian's packages, for a machine that reaches them and no image registry:
# as debian:bookworm-slim, the smallest set of packages without manuals and translations. As root.
set -euo pipefail
engine=${ENGINE:-buildah}
name=${1:-localhost/debian:bookworm-slim}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# merged beforehand, else a package that does it brings the whole of Perl
mmdebstrap --variant=apt --include=usr-is-merged \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    bookworm "$folder/base.tar" ${APT_SOURCES:-}
container=$("$engine" from scratch)
"$engine" add --quiet "$container" "$folder/base.tar" /
"$engine" commit --quiet --rm "$container" "$name"

#!/usr/bin/env bash
# `image.sh build` makes the image, `image.sh test` runs it as it is meant to run and asks it.
# ENGINE names docker, podman or buildah (which builds, but cannot test); IMAGE the image;
# BUILD_OPTIONS what the build is told besides, such as --build-arg BASE=….
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE:-polyrank:latest}
limit=300000000 # bytes, uncompressed

# The command of a docker client says nothing: it needs its service.
find_engine() {
    docker info >/dev/null 2>&1 && { echo docker; return; }
    command -v podman || command -v buildah || {
        echo "make image needs docker, podman or buildah (Debian: apt-get install podman)" >&2
        exit 1
    }
}
engine=${ENGINE:-$(find_engine)}

case ${1:-} in
build)
    # the format that knows health checks; docker makes it anyway
    [[ $engine == *docker ]] || format=--format=docker
    "$engine" build ${format:-} ${BUILD_OPTIONS:-} --file deploy/Dockerfile --tag "$image" .
    ;;
test)
    size=$("$engine" image inspect --format '{{.Size}}' "$image")
    echo "$image: $((size / 1000000)) MB in $("$engine" image inspect --format '{{len .RootFS.Layers}}' "$image") layers"
    ((size < limit)) || { echo "larger than $((limit / 1000000)) MB" >&2; exit 1; }
    # docker's read-only leaves nothing to write to, podman's has /tmp in memory
    [[ $engine == *docker ]] || strict=--read-only-tmpfs=false
    container=$("$engine" run --detach --read-only ${strict:-} --network none --cap-drop ALL \
        --security-opt no-new-privileges ${RUN_OPTIONS:-} "$image")
    trap '"$engine" rm --force "$container" >/dev/null' EXIT
    "$engine" exec --interactive "$container" /opt/polyrank/bin/python - <deploy/ask.py || {
        "$engine" logs "$container" >&2
        exit 1
    }
    ;;
*)
    echo "image.sh build|test" >&2
    exit 2
    ;;
esac

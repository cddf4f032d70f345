#!/usr/bin/env bash
# The crate map as a check: each room's dependencies are asked of cargo, and a stranger fails the build.
# A line: crate, then the crates that must not appear anywhere below it. A slash after the crate means
# the library alone, without its default features.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
while read -r room strangers; do
    [ -z "$room" ] && continue
    features=()
    [ "$room" != "${room%/}" ] && features=(--no-default-features)
    room=${room%/}
    tree=$(cargo tree --locked --package "$room" "${features[@]}" --edges normal --prefix none --format '{p}' | awk '{print $1}' | sort -u)
    for stranger in $strangers; do
        if grep -qx -- "$stranger" <<<"$tree"; then
            echo "crate map: $room must stay clear of $stranger; the way there:" >&2
            cargo tree --locked --package "$room" "${features[@]}" --edges normal --invert "$stranger" >&2 || true
            failed=1
        fi
    done
done <<'MAP'
aggregation      tokio tonic prost rustls burn tracing serde rand
transparency/    tokio tonic prost rustls ureq clap burn tracing sqlx
transparency     tokio tonic prost hyper burn tracing sqlx
proto            burn sqlx coordinator hospital-node
coordinator      burn hospital-node hospital-trainer dicom-object
hospital-node    burn coordinator hospital-trainer hospital-pull dicom-object dicom-ul ndarray
hospital-pull    tokio tonic hyper burn sqlx coordinator hospital-node hospital-trainer hospital-images
hospital-images  aggregation proto tokio tonic burn tracing serde
hospital-trainer tonic rustls hyper h2 coordinator hospital-node
MAP
[ "$failed" = 0 ] && echo "crate map: every room keeps to itself"
exit "$failed"

#!/usr/bin/env bash
# Builds the static binary and the image around it: with docker or podman where there is one, else with buildah, which it
# installs. The result is target/image/root and, unless docker keeps the image, target/image/epp-server.tar (OCI).
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
name=${IMAGE:-epp-server:$("$cargo" pkgid -p epp-server | sed 's/.*[#@]//')}
folder=target/image
# A target of its own, so that the flag reaches no build script and no procedural macro.
target=$(rustc -vV | sed -n 's/^host: //p')
binary=${CARGO_TARGET_DIR:-target}/$target/dist/epp-server

RUSTFLAGS="-C target-feature=+crt-static" "$cargo" build --profile dist --target "$target" -p epp-server
rm -rf "$folder"
mkdir -p "$folder/root/app" "$folder/root/etc/ssl/certs"
install -s -m 755 "$binary" "$folder/root/app/epp"
ln -s app/epp "$folder/root/epp-server"
install -m 644 /etc/ssl/certs/ca-certificates.crt "$folder/root/etc/ssl/certs/"
echo "hosts: files dns" > "$folder/root/etc/nsswitch.conf"

build=(-f epp-server/Containerfile -t "$name" "$folder")
if docker info >/dev/null 2>&1; then
  docker build "${build[@]}"
elif command -v podman >/dev/null; then
  podman build "${build[@]}"
  podman save --format oci-archive -o "$folder/epp-server.tar" "$name"
else
  command -v buildah >/dev/null || { apt-get -qq update && apt-get -qq install -y --no-install-recommends buildah; }
  # Without a daemon and without mounting: also inside of a container.
  export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
  buildah bud "${build[@]}"
  buildah push --quiet "$name" "oci-archive:$folder/epp-server.tar:$name"
fi
du -h --apparent-size "$folder"/root/app/epp "$folder"/*.tar 2>/dev/null || true

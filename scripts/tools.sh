#!/usr/bin/env bash
# Provides what the tests need beside Rust: Debian packages where this is root, and pinned tools in $MILLRACE_CACHE/bin.
# What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${MILLRACE_CACHE:?the folder for built tools; make sets it}
mkdir -p "$cache/bin"
export PATH="$cache/bin:$cache/go/bin:$PATH"

go_version=1.26.8
versitygw_version=v1.8.0
deny_version=0.20.2

install_packages() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "not root, so these Debian packages must be installed by hand: $*" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=600 update -q
    apt-get -o DPkg::Lock::Timeout=600 install -y -q --no-install-recommends "$@"
}

# program:package
needed=(cc:gcc git:git make:make python3:python3 rsync:rsync tar:tar unshare:util-linux ps:procps
    ganesha.nfsd:nfs-ganesha javac:default-jdk-headless mvn:maven)
missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
[ -e "/usr/lib/$(uname -m)-linux-gnu/ganesha/libfsalvfs.so" ] || missing+=(nfs-ganesha-vfs)
[ -e "/usr/lib/$(uname -m)-linux-gnu/libgssapi_krb5.so.2" ] || missing+=(libgssapi-krb5-2)
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

# Debian 12 has Go 1.19. It is new enough to fetch a newer one as a module, whose sum it checks.
go_is_new() {
    local have
    have=$(go env GOVERSION 2>/dev/null) || return 1
    [ "$(printf '%s\n' go1.25 "$have" | sort -V | head -n 1)" = go1.25 ]
}
if ! go_is_new; then
    command -v go >/dev/null || install_packages golang-go
    module=golang.org/toolchain@v0.0.1-go$go_version.linux-$(go env GOARCH)
    empty=$(mktemp -d)
    fetched=$(cd "$empty" && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
    rmdir "$empty"
    rm -rf "$cache/go.part" "$cache/go"
    cp -r "$fetched" "$cache/go.part"
    # Modules hold neither writable files nor programs.
    chmod -R u+w "$cache/go.part"
    chmod a+x "$cache"/go.part/bin/* "$cache"/go.part/pkg/tool/*/*
    mv "$cache/go.part" "$cache/go"
    hash -r
fi
go version

if ! go version -m "$cache/bin/versitygw" 2>/dev/null | grep -q "versitygw[[:space:]]$versitygw_version"; then
    GOBIN=$cache/bin go install "github.com/versity/versitygw/cmd/versitygw@$versitygw_version"
fi
if [ "$(cargo-deny --version 2>/dev/null)" != "cargo-deny $deny_version" ]; then
    # Its release profile takes long to build and saves little here; nor do its debug symbols.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --locked --version "$deny_version" --profile dev --root "$cache" \
        --target-dir "$cache/tools-target"
    rm -rf "$cache/tools-target"
fi
scripts/hadoop/install.sh "$cache"
(cd csi-sanity && go build -o "$cache/bin/csi-sanity" .)
echo "tools: versitygw $versitygw_version, cargo-deny $deny_version, csi-sanity in $cache/bin"

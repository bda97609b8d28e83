# Everyday recipes; `just --list` shows them. Nothing here is needed to build: they are shorthands for cargo.

# The commit that `muster --version` names; empty outside of a git checkout.
export GIT_COMMIT := `git rev-parse --short=12 HEAD 2>/dev/null || true`
# The time of everything that is packed: the last commit's, so that the same commit gives the same bytes.
export SOURCE_DATE_EPOCH := `git log -1 --format=%ct 2>/dev/null || echo 0`

# Format, lint and type-check.
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# The tests whose names contain WORD, on both databases where PostgreSQL is installed.
test word="":
    cargo test --locked -- {{word}}

# All that has to pass before a change goes in.
ci:
    .ci/run

# The whole loop on this machine, with a console.
demo:
    cargo run --locked --release -- demo

# The budgets, on both databases.
bench:
    cargo bench --locked

# The program as it is packed.
dist:
    cargo build --locked --profile dist --bin muster

# The Debian package, with the program of `just dist`: target/debian/muster_*.deb
deb: dist
    cargo deb --locked --profile dist --no-build

# The container image.
image:
    podman build --build-arg GIT_COMMIT --build-arg SOURCE_DATE_EPOCH -t muster .

# What the program is made of, as CycloneDX: muster.cdx.json
sbom:
    cargo cyclonedx --format json --override-filename muster.cdx

# One word for each daily task; `just --list` shows them.

# Build the program
build:
    cargo build --release --locked

# Run the tests
test:
    cargo test --locked --all-features

# Format, and check with clippy as CI does
lint:
    cargo fmt
    cargo clippy --locked --all-targets --all-features -- -D warnings
    cargo clippy --locked -- -D warnings
    cargo clippy --locked --no-default-features -- -D warnings
    cargo clippy --locked --no-default-features --features cloud -- -D warnings

# Build the documentation of the code, without warnings
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features --document-private-items

# Build the book into target/book
book:
    mdbook build docs

# Measure each convolution as a share of what one core can do
bench:
    cargo bench --bench kernels

# Check the short training against pipeline.lock
locked: build
    target/release/similiai run all --profile check --locked

# Write pipeline.lock for the short training
lock: build
    target/release/similiai run all --profile check
    target/release/similiai lock --profile check

# Do everything that CI does
ci:
    .ci/run

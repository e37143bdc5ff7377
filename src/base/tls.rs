//! Chooses the cryptography provider for TLS.

/// Makes `ring` the provider of `rustls`. Call it before the first connection; later calls change nothing.
pub fn set_up() {
    // The only possible error is that a provider is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

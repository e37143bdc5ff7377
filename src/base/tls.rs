//! TLS: the one place that chooses who encrypts.

/// Makes ring the provider of rustls. Call it before the first connection; later calls change nothing.
pub fn set_up() {
    // An error says that a provider is set already: this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

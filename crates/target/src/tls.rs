//! A throwaway certificate for a target that speaks TLS.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// A certificate that could not be made.
#[derive(Debug)]
pub struct TlsError(String);

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a certificate for the target could not be made: {}", self.0)
    }
}

impl std::error::Error for TlsError {}

/// Accepts TLS with a new self-signed certificate for `names`; also returns it as PEM, so that
/// clients can trust it.
///
/// # Errors
///
/// If a name cannot stand in a certificate.
pub fn acceptor(names: Vec<String>) -> Result<(TlsAcceptor, String), TlsError> {
    let made =
        rcgen::generate_simple_self_signed(names).map_err(|error| TlsError(error.to_string()))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| TlsError(error.to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)
        })
        .map_err(|error| TlsError(error.to_string()))?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

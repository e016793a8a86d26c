//! TLS towards the target.

use std::io;
use std::sync::Arc;

use hyperscale_plan::{Secrets, Tls, TlsVersion};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

/// The connector for a plan's settings.
///
/// # Errors
///
/// If certificates or versions cannot be used, in words.
pub(crate) fn connector(settings: &Tls, secrets: &Secrets) -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let versions: Vec<&'static rustls::SupportedProtocolVersion> =
        [(TlsVersion::V1_2, &rustls::version::TLS12), (TlsVersion::V1_3, &rustls::version::TLS13)]
            .into_iter()
            .filter(|(version, _)| settings.min.is_none_or(|min| *version >= min))
            .filter(|(version, _)| settings.max.is_none_or(|max| *version <= max))
            .map(|(_, supported)| supported)
            .collect();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| format!("no TLS version is left to speak: {error}"))?;
    let config = if settings.insecure {
        let anything = Arc::new(AnyCertificate(provider));
        builder.dangerous().with_custom_certificate_verifier(anything)
    } else {
        builder.with_root_certificates(roots(settings)?)
    };
    let config = match client_identity(settings, secrets)? {
        None => config.with_no_client_auth(),
        Some((chain, key)) => config
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("`tls.cert` cannot be used: {error}"))?,
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connector that also says that it speaks HTTP/1.1: whoever looks closely at one connection wants
/// to see what the other side makes of it.
///
/// # Errors
///
/// If certificates or versions cannot be used, in words.
pub fn probe_connector(settings: &Tls) -> Result<TlsConnector, String> {
    let connector = connector(settings, &Secrets::default())?;
    let mut config = ClientConfig::clone(connector.config());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_identity(settings: &Tls, secrets: &Secrets) -> Result<Option<Identity>, String> {
    let (Some(cert), Some(key)) = (&settings.cert, &settings.key_secret) else { return Ok(None) };
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("`tls.cert` cannot be read: {error:?}"))?;
    let key = secrets.0.get(key).ok_or_else(|| format!("the secret `{key}` has no value"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("`tls.key` cannot be read: {error:?}"))?;
    Ok(Some((chain, key)))
}

fn roots(settings: &Tls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate =
                    certificate.map_err(|error| format!("`tls.ca` cannot be read: {error:?}"))?;
                roots.add(certificate).map_err(|error| {
                    format!("a certificate of `tls.ca` cannot be used: {error}")
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    Ok(roots)
}

/// Why a handshake failed, in words that say what to do about it.
pub(crate) fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the certificate is signed by nobody who is trusted; name its authority in `tls.ca`"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("the certificate is refused: {why}")
        }
        Some(error) => error.to_string(),
        None => format!("the TLS handshake broke off: {error}"),
    }
}

/// Takes any certificate; signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! Certificates: which engines are trusted when they are scraped, and what this server shows to gateways.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use tonic::transport::Identity;

/// Names in a certificate that the server makes for itself.
const SELF_SIGNED_NAMES: [&str; 2] = ["localhost", "epp-server"];

/// How an engine's certificate is checked when its metrics are read over https.
///
/// With a file, its certificates are the only authorities. Without one nothing is checked: engines in a cluster have
/// self-made certificates.
///
/// # Errors
///
/// The message names the file that cannot be read or holds no certificate.
pub fn client_config(authorities: Option<&Path>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?;
    let builder: ConfigBuilder<ClientConfig, WantsClientCert> = match authorities {
        Some(path) => builder.with_root_certificates(read_authorities(path)?),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::new())),
    };
    Ok(builder.with_no_client_auth())
}

/// The certificate of the gRPC port: `tls.crt` and `tls.key` of a folder, else one made on the spot.
///
/// # Errors
///
/// The message names the file that cannot be read, or the folder whose files do not make a certificate and its key.
pub fn server_identity(folder: Option<&Path>) -> Result<Identity, String> {
    let Some(folder) = folder else {
        let names = SELF_SIGNED_NAMES.map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|error| format!("cannot make a certificate: {error}"))?;
        return Ok(Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem()));
    };
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path)
            .map_err(|error| format!("cannot read certificate, {error}: `{}`", path.display()))
    };
    let (certificate, key) = (read("tls.crt")?, read("tls.key")?);
    check_identity(&certificate, &key)
        .map_err(|error| format!("invalid tls.crt or tls.key, {error}: `{}`", folder.display()))?;
    Ok(Identity::from_pem(certificate, key))
}

/// Fails where serving would, but says why.
fn check_identity(certificate: &[u8], key: &[u8]) -> Result<(), Box<dyn Error>> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err("there is no certificate".into());
    }
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
    Ok(())
}

fn read_authorities(path: &Path) -> Result<RootCertStore, String> {
    let unreadable = |error: &dyn fmt::Display| {
        format!("cannot read certificate authorities, {error}: `{}`", path.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"the file holds no certificate"));
    }
    Ok(roots)
}

/// Accepts every certificate, but still checks that the peer owns it.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl AnyCertificate {
    fn new() -> Self {
        Self(ring::default_provider())
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

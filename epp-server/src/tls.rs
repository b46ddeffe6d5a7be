//! Certificates: which engines are trusted when they are scraped, and what this server shows to gateways.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::folder_watch::FolderWatch;

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

/// The certificate of the gRPC port, which can be replaced while it is served.
///
/// A connection keeps the certificate that it was opened with, so nothing is cut when another one comes.
#[derive(Debug)]
pub struct ServedCertificate {
    /// Folder with `tls.crt` and `tls.key`; `None` for a certificate that the server made.
    folder: Option<PathBuf>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServedCertificate {
    /// Reads `tls.crt` and `tls.key` of a folder, else makes a certificate on the spot.
    ///
    /// # Errors
    ///
    /// The message names the file that cannot be read, or the folder whose files do not make a certificate and its key.
    pub fn new(folder: Option<&Path>) -> Result<Self, String> {
        let current = match folder {
            Some(folder) => read_certificate(folder)?,
            None => make_certificate().map_err(|error| format!("cannot make a certificate: {error}"))?,
        };
        Ok(Self { folder: folder.map(Path::to_owned), current: RwLock::new(Arc::new(current)) })
    }

    /// Follows the files until the task is dropped; files that cannot be used keep the last certificate in force.
    ///
    /// # Errors
    ///
    /// The folder cannot be watched.
    pub fn watch(self: Arc<Self>) -> Result<impl Future<Output = ()>, String> {
        let folder = self.folder.clone().ok_or("a certificate made at start has no files to follow")?;
        let mut changes = FolderWatch::new(&folder)?;
        Ok(async move {
            // What changed between the first reading and the watch was seen by neither.
            self.reload(&folder);
            while changes.changed().await {
                self.reload(&folder);
            }
        })
    }

    fn reload(&self, folder: &Path) {
        match read_certificate(folder) {
            Ok(certificate) if certificate.cert == self.current.read().cert => {}
            Ok(certificate) => {
                *self.current.write() = Arc::new(certificate);
                tracing::info!(folder = %folder.display(), "certificate reloaded");
            }
            Err(error) => tracing::warn!(%error, "certificate ignored, the last one stays in force"),
        }
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

/// How the gRPC port speaks TLS: 1.2 or 1.3, HTTP/2.
///
/// # Errors
///
/// The TLS library refuses its own defaults.
pub fn server_config(certificate: Arc<ServedCertificate>) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    // Gateways refuse to speak gRPC to a server that does not offer this.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn read_certificate(folder: &Path) -> Result<CertifiedKey, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path)
            .map_err(|error| format!("cannot read certificate, {error}: `{}`", path.display()))
    };
    certified_key(&read("tls.crt")?, &read("tls.key")?)
        .map_err(|error| format!("invalid tls.crt or tls.key, {error}: `{}`", folder.display()))
}

fn make_certificate() -> Result<CertifiedKey, Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(SELF_SIGNED_NAMES.map(str::to_owned))?;
    certified_key(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes())
}

fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, Box<dyn Error>> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err("there is no certificate".into());
    }
    Ok(CertifiedKey::from_der(chain, PrivateKeyDer::from_pem_slice(key)?, &ring::default_provider())?)
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

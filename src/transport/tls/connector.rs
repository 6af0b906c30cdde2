//! Client side: connections to Neo4j, and whom they believe.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{TlsError, ca_file, certificates, private_key};
use crate::config::Upstream;
use crate::transport::Transport;

/// Whose certificates are believed of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system's CAs have signed (`+s`).
    System,
    /// Any certificate, also self-signed ones (`+ssc`): encrypted, but not proof of who answers.
    Any,
    /// Those that the CAs in this PEM file have signed.
    CaFile(PathBuf),
    /// The first certificate in this PEM file and no other, whatever its names and signatures are.
    Only(PathBuf),
}

/// Client side: connections to Neo4j. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    pub(super) client: Arc<ClientConfig>,
}

impl TlsConnector {
    /// A connector that believes `trust` and shows its `own` certificate (chain file, key file) to servers that ask
    /// for one. Reads files, so call it where blocking is allowed.
    pub fn new(trust: &Trust, own: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("invariant: ring has suites for TLS 1.2 and 1.3");
        let builder = match trust {
            Trust::System => builder.with_root_certificates(system_cas()?),
            Trust::CaFile(path) => builder.with_root_certificates(ca_file(path, "upstream.ca_file")?),
            Trust::Any => {
                let verifier = ServerCertificate { provider, only: None };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Trust::Only(path) => {
                let only = certificates(path, "the certificate to be believed")?.into_iter().next();
                let verifier = ServerCertificate { provider, only };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let client = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(
                    certificates(cert, "upstream.cert_file")?,
                    private_key(key, "upstream.key_file")?,
                )
                .map_err(|error| TlsError::BadPair {
                    cert: cert.to_owned(),
                    key: key.to_owned(),
                    reason: error.to_string(),
                })?,
        };
        Ok(Self { client: Arc::new(client) })
    }

    /// The connector for `upstream` settings: `any` for `+ssc` (any certificate), else `ca_file` or the system.
    pub fn for_upstream(upstream: &Upstream, any: bool) -> Result<Self, TlsError> {
        let trust = match (any, &upstream.ca_file) {
            (true, _) => Trust::Any,
            (false, Some(path)) => Trust::CaFile(path.clone()),
            (false, None) => Trust::System,
        };
        match (&upstream.cert_file, &upstream.key_file) {
            (None, None) => Self::new(&trust, None),
            (Some(cert), Some(key)) => Self::new(&trust, Some((cert, key))),
            _ => Err(TlsError::HalfPair),
        }
    }

    /// The TLS handshake with `host`, a name or an IP address (IPv6 with or without brackets).
    pub async fn connect(&self, tcp: TcpStream, host: &str) -> Result<Transport, TlsError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = match bare.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(bare.to_owned())
                .map_err(|_| TlsError::BadHost { host: host.to_owned() })?,
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.client));
        match connector.connect(name, tcp).await {
            Ok(stream) => Ok(Transport::Tls(Box::new(TlsStream::Client(stream)))),
            Err(source) => {
                let hint = hint(&source);
                Err(TlsError::Handshake { host: host.to_owned(), source, hint })
            }
        }
    }
}

/// What an operator can do about a failed handshake.
fn hint(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "; set upstream.ca_file to the CA that signed it, or use a +ssc URI to accept any certificate",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "; use one of the certificate's names in upstream.uri, or a +ssc URI to accept any certificate",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "; renew the server's certificate",
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; the server wants a client certificate: set upstream.cert_file and upstream.key_file"
        }
        Some(rustls::Error::InvalidMessage(_)) => NOT_TLS,
        None if error.kind() == io::ErrorKind::UnexpectedEof => NOT_TLS,
        None if error.kind() == io::ErrorKind::ConnectionReset => NOT_TLS,
        _ => "",
    }
}

const NOT_TLS: &str =
    "; the server may not use TLS on this port: use a URI without +s or +ssc, or turn on its TLS";

fn system_cas() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(TlsError::NoSystemCa { reason });
    }
    Ok(roots)
}

/// Believes every certificate, or only one; the proof that the server owns its key is still checked.
#[derive(Debug)]
struct ServerCertificate {
    provider: Arc<CryptoProvider>,
    only: Option<CertificateDer<'static>>,
}

impl ServerCertVerifier for ServerCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.only {
            Some(only) if only != end_entity => {
                Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

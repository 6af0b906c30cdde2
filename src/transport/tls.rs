//! TLS on both sides: the listener's certificate, and connections to Neo4j.

mod acceptor;
mod connector;

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use acceptor::TlsAcceptor;
pub use connector::{TlsConnector, Trust};

/// Why TLS cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{what} {path}: {source}; check that the file exists and that Sidebolt's user may read it", path = .path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file without the PEM section that is needed.
    #[error("{what} {path}: {reason}; expected PEM, a section that begins with -----BEGIN {section}-----", path = .path.display())]
    NotPem {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// The section that is needed.
        section: &'static str,
    },
    /// A certificate and a key that do not work together, or not at all.
    #[error("certificate {cert} with key {key}: {reason}; the key must be the one the first certificate was issued for", cert = .cert.display(), key = .key.display())]
    BadPair {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of CAs that cannot be used.
    #[error("CA file {path}: {reason}", path = .path.display())]
    BadCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system trusts nobody.
    #[error(
        "no CA certificate was found on this system{reason}; install the ca-certificates package or set upstream.ca_file"
    )]
    NoSystemCa {
        /// The first reason, after a colon.
        reason: String,
    },
    /// A certificate without its key or the other way round.
    #[error("upstream.cert_file and upstream.key_file belong together: set both or none")]
    HalfPair,
    /// A host that cannot stand in a certificate.
    #[error("{host:?} is neither a host name nor an IP address, so no certificate can be checked against it")]
    BadHost {
        /// The host.
        host: String,
    },
    /// The handshake with the server failed.
    #[error("TLS handshake with {host}: {source}{hint}")]
    Handshake {
        /// The server.
        host: String,
        /// What went wrong.
        source: io::Error,
        /// What to do, after a semicolon; may be empty.
        hint: &'static str,
    },
}

fn ca_file(path: &Path, what: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(path, what)? {
        roots
            .add(ca)
            .map_err(|error| TlsError::BadCa { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |error| pem_error(error, path, what, "CERTIFICATE");
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if chain.is_empty() {
        return Err(wrong(pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn private_key(path: &Path, what: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem_error(error, path, what, "PRIVATE KEY"))
}

fn pem_error(error: pem::Error, path: &Path, what: &'static str, section: &'static str) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsError::Unreadable { what, path, source },
        pem::Error::NoItemsFound => {
            TlsError::NotPem { what, path, reason: "no such section in it".to_owned(), section }
        }
        // The text of the others may quote the file, which can be a key.
        pem::Error::MissingSectionEnd { .. } => {
            TlsError::NotPem { what, path, reason: "a section has no end line".to_owned(), section }
        }
        _ => TlsError::NotPem { what, path, reason: "not valid PEM".to_owned(), section },
    }
}

#[cfg(test)]
mod tests;

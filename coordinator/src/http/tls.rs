//! HTTPS: the certificate of the server, read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use super::config::Config;
use super::tokens::changed;

/// The certificate of the server, and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    config: RustlsConfig,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Reads it, if the settings name one.
    pub(super) fn load(config: &Config) -> anyhow::Result<Option<Self>> {
        let (Some(certificate), Some(key)) = (config.tls_certificate.clone(), config.tls_key.clone()) else {
            return Ok(None);
        };
        let config = RustlsConfig::from_config(Arc::new(read(&certificate, &key)?));
        Ok(Some(Self { config, certificate, key }))
    }

    /// What a server takes.
    pub(super) fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// When its files were changed last.
    pub(super) fn changed(&self) -> Option<(SystemTime, SystemTime)> {
        changed(&self.certificate).zip(changed(&self.key))
    }

    /// Takes over what its files hold now; connections that are there keep what they have.
    pub(super) fn take_over(&self) {
        match read(&self.certificate, &self.key) {
            Ok(config) => {
                self.config.reload_from_config(Arc::new(config));
                info!("the API has a new certificate");
            }
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "the certificate has changed and cannot be used: the old one stays"
                );
            }
        }
    }
}

fn read(certificate: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let cannot = |file: &Path| format!("[http]: `{}` cannot be used", file.display());
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| cannot(certificate))?;
    anyhow::ensure!(!chain.is_empty(), "[http] tls-certificate: `{}` holds no certificate", certificate.display());
    let secret = PrivateKeyDer::from_pem_file(key).with_context(|| cannot(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, secret).with_context(|| cannot(key))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_used_is_told_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (good, key) = (file("cert.pem", &made.cert.pem()), file("key.pem", &made.signing_key.serialize_pem()));

        assert!(read(&good, &key).is_ok());
        assert!(format!("{:#}", read(&key, &key).unwrap_err()).contains("holds no certificate"));
        assert!(format!("{:#}", read(&good, &file("empty.pem", "")).unwrap_err()).contains("empty.pem"));
        assert!(format!("{:#}", read(Path::new("/nowhere"), &key).unwrap_err()).contains("/nowhere"));
    }
}

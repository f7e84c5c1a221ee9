//! An authority of the mesh's own, and the certificates of its server and of those who connect.
//!
//! For meshes that have no authority yet. The key of the authority stays in the directory; whoever has it can make
//! certificates that the whole mesh trusts.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use shared::MeshName;

use super::{Error, make_private, write, write_secret};

/// The certificate that all others are checked against.
pub const AUTHORITY: &str = "tls/ca.pem";
/// Its key.
pub const AUTHORITY_KEY: &str = "tls/ca.key";
/// The server's certificate.
pub const SERVER: &str = "tls/server.pem";
/// Its key.
pub const SERVER_KEY: &str = "tls/server.key";
/// The certificate of those who connect.
pub const CLIENT: &str = "tls/client.pem";
/// Its key.
pub const CLIENT_KEY: &str = "tls/client.key";

/// How long the authority lasts.
const AUTHORITY_YEARS: i32 = 10;
/// How long a certificate lasts.
const YEARS: i32 = 1;

/// Makes new certificates for a server that is reached by these names and addresses, and for those who connect. The
/// authority is made where there is none, and stays where there is one.
pub fn make(directory: &Path, mesh: &MeshName, hosts: &[String]) -> Result<(), Error> {
    make_private(&directory.join("tls"))?;
    let authority = authority(directory, mesh)?;
    let issue = |name: String, hosts: &[String], usage, [certificate, key_file]: [&str; 2]| -> Result<(), Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(hosts).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        params.extended_key_usages.push(usage);
        set_lifetime(&mut params, YEARS);
        let signed = params.signed_by(&key, &authority).map_err(failed)?;
        replace_secret(&directory.join(key_file), &key.serialize_pem())?;
        write(&directory.join(certificate), &signed.pem())
    };
    issue(format!("{mesh} nats-server"), hosts, ExtendedKeyUsagePurpose::ServerAuth, [SERVER, SERVER_KEY])?;
    issue(format!("{mesh} client"), &[], ExtendedKeyUsagePurpose::ClientAuth, [CLIENT, CLIENT_KEY])
}

fn authority(directory: &Path, mesh: &MeshName) -> Result<Issuer<'static, KeyPair>, Error> {
    let (certificate, key_file) = (directory.join(AUTHORITY), directory.join(AUTHORITY_KEY));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{mesh} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_lifetime(&mut params, AUTHORITY_YEARS);
    if key_file.exists() {
        let text = fs::read_to_string(&key_file).map_err(|source| Error::Read { path: key_file, source })?;
        // Who signs is known by its name and its key, and these are as they were when it was made.
        return Ok(Issuer::new(params, KeyPair::from_pem(&text).map_err(failed)?));
    }
    let key = KeyPair::generate().map_err(failed)?;
    let signed = params.self_signed(&key).map_err(failed)?;
    write_secret(&key_file, &key.serialize_pem())?;
    write(&certificate, &signed.pem())?;
    Ok(Issuer::new(params, key))
}

/// A key that is made anew with its certificate is the one secret that takes the place of an older one.
fn replace_secret(path: &Path, text: &str) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    write_secret(&fresh, text)?;
    fs::rename(&fresh, path).map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn failed(error: rcgen::Error) -> Error {
    Error::Key(error.into())
}

/// From yesterday on, since not all clocks agree, for so many years.
fn set_lifetime(params: &mut CertificateParams, years: i32) {
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
    let text = humantime::format_rfc3339_seconds(yesterday).to_string();
    let mut numbers = text.split(['-', 'T']).map_while(|number| number.parse::<i32>().ok());
    let mut next = || numbers.next().expect("a date begins with year, month and day");
    let (year, month, day) = (next(), next() as u8, next() as u8);
    params.not_before = date_time_ymd(year, month, day);
    // Not every month has more days, nor every February the same.
    params.not_after = date_time_ymd(year + years, month, day.min(28));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn new_certificates_come_from_the_authority_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let make = || make(dir.path(), &MeshName::default(), &["localhost".to_owned(), "127.0.0.1".to_owned()]);
        make().unwrap();
        let before = [AUTHORITY, AUTHORITY_KEY, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY].map(read);

        make().unwrap();

        let after = [AUTHORITY, AUTHORITY_KEY, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY].map(read);
        assert_eq!(before[..2], after[..2]);
        assert!((2..6).all(|i| before[i] != after[i]));
        for key in [AUTHORITY_KEY, SERVER_KEY, CLIENT_KEY] {
            let mode = fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_host_that_is_none_is_an_error() {
        let dir = tempfile::tempdir().unwrap();

        assert!(make(dir.path(), &MeshName::default(), &["ä b".to_owned()]).is_err());
    }
}

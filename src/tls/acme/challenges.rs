//! What an authority looks at to find out whose names these are.
//!
//! An open challenge is a file in the folder of the authority, so that whichever process the authority reaches can answer:
//! the one that ordered, the one that has just taken over from it, or another gateway that shares the folder. It is there
//! only while the order is under way; a path or a name without one is like any other.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{crypto::CryptoProvider, pki_types::PrivateKeyDer, sign::CertifiedKey};

use super::store;
use crate::config::acme::Domain;
use crate::digest::sha256;

/// The folder for them.
pub(super) const FOLDER: &str = "challenges";

/// Where an authority fetches the answer of an HTTP-01 challenge ([RFC 8555, 8.3](https://www.rfc-editor.org/rfc/rfc8555#section-8.3)).
pub const PATH: &str = "/.well-known/acme-challenge/";

/// The protocol of a TLS-ALPN-01 challenge ([RFC 8737, 6.2](https://www.rfc-editor.org/rfc/rfc8737#section-6.2)).
pub const ALPN: &[u8] = b"acme-tls/1";

/// The challenges of one authority.
#[derive(Clone, Debug)]
pub struct Challenges(PathBuf);

/// A challenge that is open until this is dropped.
#[derive(Debug)]
pub(super) struct Open(PathBuf);

impl Drop for Open {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::debug!("{} is gone already: {error}", self.0.display());
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question<'a> {
    /// The page with this token.
    Page(&'a str),
    /// The certificate for this domain.
    Certificate(&'a str),
}

impl Question<'_> {
    /// The name of its file; `None` if it cannot be asked.
    fn file(self) -> Option<String> {
        match self {
            Self::Page(token) => is_token(token).then(|| format!("page-{token}")),
            Self::Certificate(name) => {
                let domain: Domain = name.parse().ok()?;
                Some(format!("certificate-{}", domain.as_str()))
            }
        }
    }
}

/// Tokens are base64url, and come from a server that is not to choose paths here.
fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Challenges {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.join(FOLDER))
    }

    /// Answers a question from now on.
    pub(super) fn open(&self, question: Question<'_>, answer: &str) -> io::Result<Open> {
        let name = question.file().ok_or_else(|| io::Error::other("the token of the authority is not valid"))?;
        let (new, path) = (self.0.join(format!("{name}.new")), self.0.join(name));
        store::write_new(&new, answer.as_bytes())?;
        fs::rename(new, &path)?;
        Ok(Open(path))
    }

    /// Forgets what a process left behind that ended in the middle. To be called by whoever has the turn.
    pub(super) fn clear(&self) {
        let left = fs::read_dir(&self.0).into_iter().flatten().flatten();
        // In any order; what cannot be removed is in nobody's way.
        left.for_each(|entry| drop(fs::remove_file(entry.path())));
    }

    fn answer(&self, question: Question<'_>) -> Option<Vec<u8>> {
        fs::read(self.0.join(question.file()?)).ok()
    }

    /// The page at a path below [`PATH`], if an authority waits for it. Files are read elsewhere: the folder may be on a
    /// machine far away.
    pub async fn page(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(PATH).filter(|token| is_token(token))?.to_owned();
        let own = self.clone();
        let answer = tokio::task::spawn_blocking(move || own.answer(Question::Page(&token)));
        answer.await.ok().flatten().map(Bytes::from)
    }

    /// The certificate for a client that offers [`ALPN`] and nothing else, if an authority waits for it
    /// ([RFC 8737, 3](https://www.rfc-editor.org/rfc/rfc8737#section-3)).
    pub async fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let (own, name) = (self.clone(), name.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let answer = own.answer(Question::Certificate(&name))?;
            let made = certificate(&name, &answer);
            made.inspect_err(|why| log::warn!("the challenge for {name} cannot be answered: {why}")).ok()
        });
        made.await.ok().flatten().map(Arc::new)
    }
}

fn certificate(name: &str, answer: &[u8]) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new([name.to_owned()]).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&sha256(answer))];
    self_signed(&params)
}

/// A certificate that nobody issued.
pub(super) fn self_signed(params: &CertificateParams) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(text)?;
    let made = params.self_signed(&key).map_err(text)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let provider = CryptoProvider::get_default().ok_or("no crypto provider")?;
    // Not `from_der`, which looks at the certificate, and takes none with the extension of a challenge.
    let key = provider.key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![made.into()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(folder: &Path) -> Challenges {
        pingora::tls::install_default_crypto_provider();
        let store = store::Store::open(folder, "ca").unwrap();
        Challenges::new(store.folder())
    }

    #[tokio::test]
    async fn a_page_is_there_while_its_challenge_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (challenges(folder.path()), challenges(folder.path()));
        let open = one.open(Question::Page("tok_en-1"), "tok_en-1.thumb").unwrap();
        let path = format!("{PATH}tok_en-1");
        assert_eq!(other.page(&path).await.as_deref(), Some(&b"tok_en-1.thumb"[..]));
        for path in
            ["", "/", PATH, "/x/tok_en-1", &format!("{PATH}other"), &format!("{PATH}../lock"), &format!("{path}/")]
        {
            assert_eq!(other.page(path).await, None, "{path}");
        }
        drop(open);
        assert_eq!(other.page(&path).await, None);
        assert!(one.open(Question::Page("../../evil"), "x").is_err());
    }

    #[tokio::test]
    async fn a_certificate_carries_the_digest_of_the_answer() {
        let folder = tempfile::tempdir().unwrap();
        let challenges = challenges(folder.path());
        let _open = challenges.open(Question::Certificate("a.test"), "token.thumb").unwrap();
        assert!(challenges.certificate("b.test").await.is_none() && challenges.certificate("../x").await.is_none());
        let made = challenges.certificate("A.test").await.unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&made.cert[0]).unwrap();
        let acme = parsed.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(acme.critical);
        assert_eq!(acme.value[2..], sha256(b"token.thumb")[..]);
        challenges.clear();
        assert!(challenges.certificate("a.test").await.is_none());
    }
}

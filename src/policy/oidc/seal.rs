//! Encrypts what browsers keep: AES-256-GCM with a key of its own for each purpose. Whatever is wrong with a text, the answer is the same.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::config::types::Secret;

/// What a text is for; one of the one kind is never taken for one of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Session,
    Login,
}

/// Encrypts, and decrypts what it or its predecessors encrypted.
pub(super) struct Sealer(Box<[Pair]>);

struct Pair {
    session: RandomizedNonceKey,
    login: RandomizedNonceKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// The first secret encrypts. What was encrypted for another `owner` is not decrypted.
    pub(super) fn new(secrets: &[Secret], owner: &str) -> Result<Self, String> {
        let pair = |secret: &Secret| {
            Some(Pair {
                session: key(secret, owner, "torana oidc session")?,
                login: key(secret, owner, "torana oidc login")?,
            })
        };
        let pairs: Option<Box<[Pair]>> = secrets.iter().map(pair).collect();
        pairs.map(Self).ok_or_else(|| "no key can be made of this secret".into())
    }

    /// A text without `=` and other characters that cookies do not have.
    pub(super) fn seal(&self, purpose: Purpose, plain: &[u8]) -> Option<String> {
        let key = self.0.first()?.key(purpose);
        let mut sealed = vec![0; NONCE_LEN];
        let mut body = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::empty(), &mut body).ok()?;
        sealed.copy_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What was sealed, if nobody touched it.
    pub(super) fn open(&self, purpose: Purpose, text: &[u8]) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        self.0.iter().find_map(|pair| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut body = body.to_vec();
            let length = pair.key(purpose).open_in_place(nonce, Aad::empty(), &mut body).ok()?.len();
            body.truncate(length);
            Some(body)
        })
    }
}

impl Pair {
    fn key(&self, purpose: Purpose) -> &RandomizedNonceKey {
        match purpose {
            Purpose::Session => &self.session,
            Purpose::Login => &self.login,
        }
    }
}

fn key(secret: &Secret, owner: &str, purpose: &str) -> Option<RandomizedNonceKey> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, purpose.as_bytes());
    let made = salt.extract(secret.expose().as_bytes());
    let info = [owner.as_bytes()];
    let mut key = [0; 32];
    made.expand(&info, hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(secrets: &[&str], owner: &str) -> Sealer {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| secret.parse().unwrap()).collect();
        Sealer::new(&secrets, owner).unwrap()
    }

    #[test]
    fn only_the_whole_text_of_the_same_owner_for_the_same_purpose_is_opened() {
        let ours = sealer(&["new", "old"], "web");
        let sealed = ours.seal(Purpose::Session, b"who").unwrap();
        assert_ne!(sealed, ours.seal(Purpose::Session, b"who").unwrap());
        let open = |sealer: &Sealer, text: &str| sealer.open(Purpose::Session, text.as_bytes());
        assert_eq!(open(&ours, &sealed).as_deref(), Some(&b"who"[..]));
        assert_eq!(ours.open(Purpose::Login, sealed.as_bytes()), None);
        assert_eq!(open(&sealer(&["new"], "shop"), &sealed), None);
        assert_eq!(open(&sealer(&["other"], "web"), &sealed), None);
        assert_eq!(open(&sealer(&["newest", "new"], "web"), &sealed).as_deref(), Some(&b"who"[..]));
        for at in 0..sealed.len() {
            let mut broken = sealed.clone().into_bytes();
            broken[at] = if broken[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ours.open(Purpose::Session, &broken), None, "{at}");
            assert_eq!(ours.open(Purpose::Session, &sealed.as_bytes()[..at]), None);
        }
        assert_eq!(open(&ours, &(sealed + "A")), None);
    }
}

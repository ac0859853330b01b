//! What an issuer says about itself ([OpenID Connect Discovery, 3](https://openid.net/specs/openid-connect-discovery-1_0.html)).

use serde::Deserialize;

use crate::policy::jwt::Url;

/// Where an issuer does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Provider {
    pub(super) keys: Url,
    /// Where browsers log in.
    pub(in crate::policy) authorization: Option<Url>,
    /// Where codes and refresh tokens become tokens.
    pub(in crate::policy) token: Option<Url>,
    /// Where browsers log out.
    pub(in crate::policy) end_session: Option<Url>,
    /// Where tokens are given back.
    pub(in crate::policy) revocation: Option<Url>,
    /// It says in its answers who it is ([RFC 9207](https://www.rfc-editor.org/rfc/rfc9207)).
    pub(in crate::policy) names_itself: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Provider {
    /// Reads a document. It is believed only about its own issuer, and never leads from TLS to something without.
    pub(super) fn read(json: &[u8], issuer: &Url) -> Result<Self, String> {
        let found: Document = serde_json::from_slice(json).map_err(|_error| "this is not a discovery document")?;
        if found.issuer != issuer.as_str() {
            let said: String = found.issuer.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(format!("the discovery document is that of `{said}`, and `issuer` is `{}`", issuer.as_str()));
        }
        let url = |text: String| {
            let url: Url = text.parse()?;
            if issuer.is_secure() && !url.is_secure() {
                return Err("the discovery document names addresses without TLS".to_owned());
            }
            Ok(url)
        };
        Ok(Self {
            keys: url(found.jwks_uri)?,
            authorization: found.authorization_endpoint.map(url).transpose()?,
            token: found.token_endpoint.map(url).transpose()?,
            end_session: found.end_session_endpoint.map(url).transpose()?,
            revocation: found.revocation_endpoint.map(url).transpose()?,
            names_itself: found.authorization_response_iss_parameter_supported,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery_document_is_believed_only_about_its_issuer() {
        let issuer: Url = "https://idp.example.com".parse().unwrap();
        let document = |issuer: &str, keys: &str, more: &str| {
            format!(r#"{{"issuer": "{issuer}", "jwks_uri": "{keys}", "x": 1{more}}}"#).into_bytes()
        };
        let good = document("https://idp.example.com", "https://keys.example.com/jwks", "");
        let found = Provider::read(&good, &issuer).unwrap();
        assert_eq!((found.keys.as_str(), found.token), ("https://keys.example.com/jwks", None));
        for bad in [
            document("https://idp.example.com/", "https://keys.example.com/jwks", ""),
            document("https://idp.example.com", "http://keys.example.com/jwks", ""),
            document("https://idp.example.com", "file:///etc/passwd", ""),
            document("https://idp.example.com", "https://a/", r#", "token_endpoint": "http://idp.example.com/token""#),
            b"<html>".to_vec(),
        ] {
            assert!(Provider::read(&bad, &issuer).is_err());
        }
    }
}

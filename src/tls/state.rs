//! What is known of a certificate that listeners show: for `/status`, `torana status` and metrics.

use serde::Serialize;
use x509_parser::extensions::GeneralName;

/// A certificate, or one that is still to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateState {
    /// The names that it is for. The first one is what it goes by.
    pub names: Vec<String>,
    /// Where it comes from.
    pub source: Source,
    /// Who issued it.
    pub issuer: Option<String>,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: Option<u64>,
    /// How it stands with it.
    pub state: Condition,
    /// What went wrong last: the certificate before is shown meanwhile.
    pub error: Option<String>,
    /// When that is tried again, in seconds since 1970.
    pub next_try: Option<u64>,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Files that the configuration names.
    File,
    /// An authority that issues them by ACME.
    Acme,
    /// Files that certificates of clients are verified by: what ends is a revocation list.
    Clients,
}

/// How it stands with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All is well.
    Valid,
    /// It ends soon, and should have been renewed.
    Expiring,
    /// It has ended: clients refuse it.
    Expired,
    /// There is none yet.
    Pending,
    /// It could not be fetched, read or renewed.
    Failed,
}

impl Source {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Acme => "acme",
            Self::Clients => "clients",
        }
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its DNS names, in lower case.
    pub names: Vec<String>,
    /// Who issued it: the common name, or everything that is said of it.
    pub issuer: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: u64,
    /// Until when.
    pub not_after: u64,
}

impl Leaf {
    /// Reads a certificate in DER.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| format!("the certificate is not valid: {error}"))?;
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
        let dns = |name: &GeneralName<'_>| {
            if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None }
        };
        let common_name = parsed.issuer().iter_common_name().find_map(|name| name.as_str().ok());
        let validity = parsed.validity();
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Ok(Self {
            names: names.filter_map(dns).collect(),
            issuer: common_name.map_or_else(|| parsed.issuer().to_string(), ToOwned::to_owned),
            not_before: seconds(validity.not_before),
            not_after: seconds(validity.not_after),
        })
    }

    /// How it stands with it. It should have been renewed when less than a sixth of its time is left: two weeks of three
    /// months, two months of a year.
    pub fn condition(&self, now: u64) -> Condition {
        let life = self.not_after.saturating_sub(self.not_before);
        if now >= self.not_after {
            Condition::Expired
        } else if self.not_after - now < life / 6 {
            Condition::Expiring
        } else {
            Condition::Valid
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_says_what_it_is() {
        let mut params = CertificateParams::new(["A.test".to_owned(), "*.b.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "who");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 3, 1);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let leaf = Leaf::parse(made.der()).unwrap();
        assert_eq!(leaf.names, ["a.test", "*.b.test"]);
        assert_eq!(leaf.issuer, "who");
        let day = 86_400;
        assert_eq!(leaf.not_after - leaf.not_before, 60 * day);
        for (days, condition) in
            [(61, Condition::Valid), (50, Condition::Valid), (9, Condition::Expiring), (0, Condition::Expired)]
        {
            assert_eq!(leaf.condition(leaf.not_after - days * day), condition, "{days}");
        }
        assert!(Leaf::parse(b"no certificate").is_err());
    }
}

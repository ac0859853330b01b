//! What is counted of logins.

use prometheus::{IntCounter, IntCounterVec};

use super::metrics::Made;

/// What happens to sessions of `oidc`.
#[derive(Debug)]
pub struct LoginMetrics(IntCounterVec);

/// The same for one issuer.
#[derive(Debug)]
pub struct Logins {
    /// Logins that led to a session.
    pub logins: IntCounter,
    /// Answers of the issuer that did not.
    pub refused: IntCounter,
    /// Sessions with fresh tokens.
    pub refreshed: IntCounter,
    /// Sessions that the issuer ended by giving no fresh tokens.
    pub expired: IntCounter,
    /// Tries to refresh one that came to nothing.
    pub failed: IntCounter,
    /// Log-outs by browsers.
    pub logouts: IntCounter,
    /// Tokens of the issuer that ended sessions.
    pub ended: IntCounter,
}

impl LoginMetrics {
    pub(super) fn new(made: &Made) -> Self {
        let help = "What happened to sessions of browsers: login, login_refused, refresh, refresh_refused, refresh_failed, logout, issuer_logout.";
        Self(made.counters("sessions_total", help, &["issuer", "event"]))
    }

    /// What is counted for an issuer.
    pub fn of(&self, issuer: &str) -> Logins {
        let of = |event| self.0.with_label_values(&[issuer, event]);
        Logins {
            logins: of("login"),
            refused: of("login_refused"),
            refreshed: of("refresh"),
            expired: of("refresh_refused"),
            failed: of("refresh_failed"),
            logouts: of("logout"),
            ended: of("issuer_logout"),
        }
    }
}

//! What several policies take where the file says nothing.

use crate::config::types::Duration;

/// How often what an issuer publishes is fetched.
pub(super) fn refresh() -> Duration {
    Duration::from_secs(600)
}

/// How often at most a key that is not known leads to another fetch.
pub(super) fn refetch() -> Duration {
    Duration::from_secs(10)
}

/// How far the clocks of issuer and gateway may be apart.
pub(super) fn leeway() -> Duration {
    Duration::from_secs(30)
}

/// How long what somebody else said of a credential is believed.
pub(super) fn remember() -> Duration {
    Duration::from_secs(60)
}

/// How long a question that a request waits for may take.
pub(super) fn timeout() -> Duration {
    Duration::from_secs(2)
}

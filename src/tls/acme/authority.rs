//! An authority: how it is asked, what is kept for it, and the account that this gateway has there.

use std::time::Duration;

use instant_acme::{Account, AccountCredentials, Error, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};

use super::{challenges::Challenges, client::Client, store::Store};
use crate::config::acme::Challenge;

/// The file of the account.
const ACCOUNT: &str = "account.json";

/// What the file says about an authority.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) directory: String,
    pub(super) contact: Vec<String>,
    pub(super) challenge: Challenge,
    pub(super) renew_before: Option<Duration>,
    pub(super) retry: Duration,
    pub(super) external: Option<External>,
}

/// An account at the authority that this one belongs to.
pub(super) struct External {
    pub(super) id: String,
    pub(super) key: Vec<u8>,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("External").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who issues certificates.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) challenges: Challenges,
    pub(super) client: Client,
}

/// An account, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// With the private key.
    credentials: AccountCredentials,
    contact: Vec<String>,
    external: Option<String>,
}

pub(super) fn other(why: impl Into<String>) -> Error {
    Error::Other(why.into().into())
}

impl Authority {
    /// The account that is kept, or a new one.
    pub(super) async fn account(&self) -> Result<Account, Error> {
        match self.kept()? {
            Some(kept) => self.known(kept).await,
            None => self.register().await,
        }
    }

    /// Puts the account aside, because the authority does not know it.
    pub(super) fn forget_account(&self) {
        self.store.put_aside(ACCOUNT);
    }

    fn kept(&self) -> Result<Option<Kept>, Error> {
        let read = self.store.read(ACCOUNT).map_err(|error| other(format!("{ACCOUNT} cannot be read: {error}")))?;
        let Some(bytes) = read else { return Ok(None) };
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) if kept.external == self.settings.external.as_ref().map(|external| external.id.clone()) => {
                return Ok(Some(kept));
            }
            Ok(_) => log::warn!("acme: the account belongs to another external account: a new one is made"),
            Err(error) => log::error!("acme: {ACCOUNT} is not valid, a new account is made: {error}"),
        }
        self.forget_account();
        Ok(None)
    }

    async fn known(&self, kept: Kept) -> Result<Account, Error> {
        let Kept { credentials, contact, external } = kept;
        let again = serde_json::to_vec(&credentials)?;
        let account = Account::builder_with_http(Box::new(self.client.clone())).from_credentials(credentials).await?;
        if contact != self.settings.contact {
            account.update_contacts(&self.contact()).await?;
            self.keep(serde_json::from_slice(&again)?, external)?;
        }
        Ok(account)
    }

    async fn register(&self) -> Result<Account, Error> {
        let Settings { directory, external, .. } = &self.settings;
        let new = NewAccount { contact: &self.contact(), terms_of_service_agreed: true, only_return_existing: false };
        let key = external.as_ref().map(|external| ExternalAccountKey::new(external.id.clone(), &external.key));
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let (account, credentials) = builder.create(&new, directory.clone(), key.as_ref()).await?;
        self.keep(credentials, external.as_ref().map(|external| external.id.clone()))?;
        log::info!("acme: {} has a new account", account.id());
        Ok(account)
    }

    fn contact(&self) -> Vec<&str> {
        self.settings.contact.iter().map(String::as_str).collect()
    }

    fn keep(&self, credentials: AccountCredentials, external: Option<String>) -> Result<(), Error> {
        let bytes = serde_json::to_vec(&Kept { credentials, contact: self.settings.contact.clone(), external })?;
        self.store.write(ACCOUNT, &bytes).map_err(|error| other(format!("{ACCOUNT} cannot be kept: {error}")))
    }
}

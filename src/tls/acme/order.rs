//! One order: from the names to a certificate ([RFC 8555, 7.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.4)).

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};

use super::{
    authority::{Authority, other},
    challenges::{Open, Question},
};
use crate::config::acme::Challenge;

/// How the authority is asked whether it is done.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_mins(2));

impl Authority {
    /// Orders a certificate: its key and its chain in PEM.
    pub(super) async fn issue(
        &self,
        names: &[String],
        replaced: Option<CertificateIdentifier<'static>>,
    ) -> Result<String, Error> {
        let first = Box::pin(self.try_to_issue(names, replaced.clone())).await;
        let Err(Error::Api(problem)) = &first else { return first };
        if !problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist")) {
            return first;
        }
        log::warn!("acme: {} does not know the account any more", self.settings.directory);
        self.forget_account();
        Box::pin(self.try_to_issue(names, replaced)).await
    }

    async fn try_to_issue(
        &self,
        names: &[String],
        replaced: Option<CertificateIdentifier<'static>>,
    ) -> Result<String, Error> {
        self.challenges.clear();
        let account = self.account().await?;
        let mut order = begin(&account, names, replaced).await?;
        // They stay open until the order is ready, or not.
        let open = self.answer(&mut order).await?;
        let ready = order.poll_ready(&POLL).await;
        drop(open);
        if !matches!(ready, Ok(OrderStatus::Ready)) {
            return Err(match (reasons(&mut order).await, ready) {
                (Some(reasons), _) => other(reasons),
                (None, Err(error)) => error,
                (None, Ok(status)) => other(format!("the order is {status:?}")),
            });
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&POLL).await?;
        Ok(format!("{}\n{chain}", key.trim_end()))
    }

    /// Opens the challenges of an order, and tells the authority.
    async fn answer(&self, order: &mut Order) -> Result<Vec<Open>, Error> {
        let mut open = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let kind = match self.settings.challenge {
                Challenge::Http01 => ChallengeType::Http01,
                Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                return Err(other(format!("{name}: the authority does not offer this kind of challenge")));
            };
            let question = match self.settings.challenge {
                Challenge::Http01 => Question::Page(&challenge.token),
                Challenge::TlsAlpn01 => Question::Certificate(&name),
            };
            let answer = challenge.key_authorization();
            let opened = self.challenges.open(question, answer.as_str());
            open.push(opened.map_err(|error| other(format!("{name}: the challenge cannot be answered: {error}")))?);
            challenge.set_ready().await?;
        }
        Ok(open)
    }
}

/// A new order. What it replaces is said where the authority wants to know; such orders may count less against its limits.
async fn begin(
    account: &Account,
    names: &[String],
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    let names: Vec<_> = names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    if let Some(replaced) = replaced {
        let order = account.new_order(&NewOrder::new(&names).replaces(replaced)).await;
        if !order.as_ref().is_err_and(is_about_replacing) {
            return order;
        }
    }
    account.new_order(&NewOrder::new(&names)).await
}

/// Whether an order failed because it says what it replaces: an authority may not know that certificate.
fn is_about_replacing(error: &Error) -> bool {
    let says = |text: &str| ["replace", "Replace"].iter().any(|word| text.contains(word));
    // The kind of a problem is part of its text.
    matches!(error, Error::Unsupported(_)) || says(&error.to_string())
}

/// What the authority says about the names that it refused.
async fn reasons(order: &mut Order) -> Option<String> {
    let mut found = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        for problem in authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let detail = problem.detail.clone().or_else(|| problem.r#type.clone()).unwrap_or_default();
            found.push(format!("{name}: {detail}"));
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

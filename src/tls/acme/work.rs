//! The life of one certificate: it waits until there is something to do, takes its turn, orders, and waits again.

use std::{sync::Arc, time::Duration};

use super::{
    authority::{Authority, other},
    managed::Managed,
    schedule,
    store::Turn,
};
use crate::{
    clock::{Clock, spell},
    runtime::Ready,
    telemetry::metrics::Metrics,
};

/// The clock of the system may be set, and another process may have done the work.
const LOOK: Duration = Duration::from_mins(10);

/// How often it is asked for the turn while another one has it.
const TURN: Duration = Duration::from_millis(500);

/// How long one order may take.
const ORDER: Duration = Duration::from_mins(10);

/// How often the authority is asked when to renew, if it says nothing else.
const ASK: Duration = Duration::from_hours(6);

/// Longer reasons are cut off.
const MAX_REASON: usize = 500;

/// What one certificate needs.
pub(super) struct Work {
    pub(super) managed: Arc<Managed>,
    pub(super) authority: Arc<Authority>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
}

impl Work {
    fn now(&self) -> u64 {
        self.clock.unix().as_secs()
    }

    /// Works until it is dropped.
    pub(super) async fn run(self, ready: Ready) {
        // What is there is served already, and what is not there takes its time.
        ready.done();
        self.schedule();
        let mut ask_at = 0;
        loop {
            let now = self.now();
            if now >= ask_at {
                ask_at = now + self.ask_when_to_renew().await.as_secs().max(60);
            }
            let pause = self.managed.pause(self.now());
            if pause.is_zero() {
                Box::pin(self.attempt()).await;
                ask_at = 0;
                // Whatever comes of it, it does not go round and round.
                tokio::time::sleep(TURN).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(LOOK)) => {}
                () = self.managed.hurried() => {}
            }
            self.look();
        }
    }

    fn look(&self) {
        self.managed.look(&self.authority.store, self.authority.settings.renew_before);
    }

    /// `renew_before` may have changed since the certificate was read.
    fn schedule(&self) {
        if let Some(pair) = self.managed.pair() {
            let before = self.authority.settings.renew_before;
            self.managed.due_at(schedule::renewal(&pair.leaf, before, pair.chance));
        }
    }

    /// Orders, unless another process has done so meanwhile.
    async fn attempt(&self) {
        let turn = match self.turn().await {
            Ok(Some(turn)) => turn,
            Ok(None) => return,
            Err(error) => return self.failed(&format!("the turn cannot be taken: {error}")),
        };
        self.authority.client.begin();
        let (name, replaced) = (self.managed.name(), self.managed.pair().and_then(|pair| pair.identifier()));
        log::info!("acme: ordering a certificate for {}", self.managed.names.join(", "));
        let order = Box::pin(self.authority.issue(&self.managed.names, replaced));
        let issued = tokio::time::timeout(ORDER, order).await.unwrap_or_else(|_| Err(other("the order took too long")));
        let store = &self.authority.store;
        let outcome = issued
            .map_err(|error| error.to_string())
            .and_then(|pem| self.managed.renewed(&pem, store, self.authority.settings.renew_before));
        match outcome {
            Ok(()) => {
                let until = self.managed.pair().map_or(0, |pair| pair.leaf.not_after.saturating_sub(self.now()));
                log::info!("acme: {name} has a new certificate, for {}", spell(until));
                self.metrics.tls.ordered(true);
            }
            Err(why) => self.failed(&why),
        }
        drop(turn);
    }

    /// The turn to order; `None` if there is nothing to order any more.
    async fn turn(&self) -> std::io::Result<Option<Turn>> {
        loop {
            let turn = self.authority.store.turn()?;
            self.look();
            if !self.managed.pause(self.now()).is_zero() {
                return Ok(None);
            }
            if turn.is_some() {
                return Ok(turn);
            }
            tokio::time::sleep(TURN).await;
        }
    }

    fn failed(&self, why: &str) {
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect();
        let (settings, name) = (&self.authority.settings, self.managed.name());
        let not_before = self.authority.client.not_before();
        let failure = self.managed.failed(why, self.now(), not_before, settings.retry, &self.authority.store);
        self.metrics.tls.ordered(false);
        let next = spell(failure.next_try.saturating_sub(self.now()));
        let left = match self.managed.pair() {
            Some(pair) => {
                let left = pair.leaf.not_after.saturating_sub(self.now());
                format!("the one that is there is valid for {}", spell(left))
            }
            None => "there is none yet".to_owned(),
        };
        log::error!("ALARM: no new certificate for {name} ({left}; next try in {next}): {}", failure.why);
    }

    /// Asks the authority when the certificate should be renewed, if it says; returns when to ask again.
    async fn ask_when_to_renew(&self) -> Duration {
        let Some(pair) = self.managed.pair() else { return ASK };
        let Some(identifier) = pair.identifier() else { return ASK };
        let suggestion = match Box::pin(self.authority.suggestion(&identifier)).await {
            Ok(Some(suggestion)) => suggestion,
            Ok(None) => return ASK,
            Err(error) => {
                log::debug!("acme: when to renew {} is not known: {error}", self.managed.name());
                return ASK;
            }
        };
        let before = self.authority.settings.renew_before;
        let own = before.map(|_| schedule::renewal(&pair.leaf, before, pair.chance));
        self.managed.due_at(schedule::suggested(&pair.leaf, suggestion.window, own, pair.chance));
        let again = suggestion.ask_at.map_or(ASK, |at| Duration::from_secs(at.saturating_sub(self.now())));
        again.clamp(Duration::from_mins(10), Duration::from_hours(24))
    }
}

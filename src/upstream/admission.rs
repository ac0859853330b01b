//! Whether a request may be sent to an upstream at all, and when: `circuit_breaker` and `adaptive_concurrency`.

use std::{sync::Arc, time::Duration};

use super::{
    Outcome, Upstream,
    adaptive::Adaptive,
    breaker::{Breaker, Circuit, Probe},
};
use crate::{
    config::{
        breaker::{CircuitBreaker, Errors, Queue},
        route::Priority,
        upstream::Upstream as Config,
    },
    gate::{Closed, Gate, Place},
    reject::Reject,
    runtime::{Build, State},
};

/// Compiled `circuit_breaker` and `adaptive_concurrency`.
#[derive(Debug)]
pub(super) struct Admission {
    breaker: Option<(Arc<Breaker>, Errors)>,
    gate: Option<Arc<Gate>>,
    adaptive: Option<Arc<Adaptive>>,
    queue: Option<Queue>,
}

/// That a request may be sent; what it holds is given back when this is dropped.
#[derive(Debug, Default)]
pub struct Pass {
    places: [Option<Place>; 2],
    probe: Option<Probe>,
}

/// A gate whose number of places is in the file, and in its key.
#[derive(Debug)]
struct Limited(Arc<Gate>);

// Nothing to hand on: whatever is in flight ends in its own process.
impl State for Limited {}
impl State for Adaptive {}

impl Admission {
    /// `None` where everything may be sent.
    pub(super) fn compile(name: &str, config: &Config, build: &mut Build<'_>) -> Option<Self> {
        if config.circuit_breaker.is_none() && config.adaptive_concurrency.is_none() {
            return None;
        }
        let CircuitBreaker { requests, queue, errors, .. } = config.circuit_breaker.clone().unwrap_or_default();
        let breaker = errors.map(|errors| (build.keep_as(format!("breaker/{name}"), Breaker::default), errors));
        let gate = requests.map(|most| {
            let limited = build.keep_as(format!("gate/{name} {most}"), || Limited(Gate::new(most.get())));
            Arc::clone(&limited.0)
        });
        let adaptive = config
            .adaptive_concurrency
            .map(|adaptive| build.keep_as(format!("adaptive/{name} {adaptive:?}"), || Adaptive::new(adaptive)));
        Some(Self { breaker, gate, adaptive, queue })
    }
}

impl Upstream {
    /// Lets a request through, perhaps after it has waited. `remaining` bounds that.
    pub async fn admit(&self, priority: Priority, remaining: Option<Duration>, now: u64) -> Result<Pass, Reject> {
        let Some(admission) = &self.admission else { return Ok(Pass::default()) };
        let mut pass = Pass::default();
        if let Some((breaker, errors)) = &admission.breaker {
            pass.probe = breaker
                .admit(errors, now)
                .map_err(|nanos| Reject::CircuitOpen { retry_after: Duration::from_nanos(nanos) })?;
        }
        let queue = admission.queue.map(|mut queue| {
            queue.timeout.0 = remaining.map_or(queue.timeout.0, |left| left.min(queue.timeout.0));
            queue
        });
        let gates = [
            (admission.gate.as_ref(), "`circuit_breaker.requests` of the upstream"),
            (admission.adaptive.as_ref().map(|adaptive| adaptive.gate()), "`adaptive_concurrency` of the upstream"),
        ];
        for ((gate, bound), place) in gates.into_iter().zip(&mut pass.places) {
            let Some(gate) = gate else { continue };
            *place = Some(gate.enter(priority, queue).await.map_err(|closed| match closed {
                Closed::Full if queue.is_some() => Reject::UpstreamOverloaded("`queue.length` of the upstream"),
                Closed::Full => Reject::UpstreamOverloaded(bound),
                Closed::Waited => Reject::UpstreamOverloaded("`queue.timeout` of the upstream"),
            })?);
        }
        Ok(pass)
    }

    /// Whether it has something to say about that.
    pub const fn has_admission(&self) -> bool {
        self.admission.is_some()
    }

    /// Counts how a try ended.
    pub(super) fn note(&self, pass: Option<&Pass>, outcome: Outcome) {
        let Some(admission) = &self.admission else { return };
        if let Some((breaker, errors)) = &admission.breaker {
            let probe = pass.and_then(|pass| pass.probe.as_ref());
            breaker.record(errors, &self.name, outcome.failure.is_some(), probe, outcome.now);
        }
        if let Some(adaptive) = &admission.adaptive {
            adaptive.observe(outcome.took, outcome.now);
        }
    }

    /// How its circuit stands; nothing if it has none.
    pub fn circuit(&self) -> Option<Circuit> {
        let (breaker, _) = self.admission.as_ref()?.breaker.as_ref()?;
        Some(breaker.circuit(self.now()))
    }

    /// How many requests may be in flight, as far as that is learnt.
    pub fn learnt_limit(&self) -> Option<u32> {
        self.admission.as_ref()?.adaptive.as_ref().map(|adaptive| adaptive.gate().limit())
    }
}

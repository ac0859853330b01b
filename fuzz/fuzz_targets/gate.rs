//! The request phase of a gateway with a configuration, without sockets.

use std::{path::Path, sync::Arc};

use futures_lite::future::block_on;
use pingora::http::RequestHeader;
use torana::{
    clock::Clock,
    config::load_text,
    proxy::{admit::admit, context::Context},
    runtime::{Seeds, Services, Snapshot},
};

pub struct Gate {
    services: Services,
    snapshot: Arc<Snapshot>,
}

impl Gate {
    pub fn new(config: &str) -> Self {
        let services = Services::new(Clock::default(), Seeds::random()).probing();
        let (config, _) = load_text(config, "fuzz.yaml", Path::new("")).unwrap_or_else(|report| panic!("{report}"));
        let compiled = Snapshot::compile(&config, None, &services).unwrap_or_else(|found| panic!("{found:?}"));
        Self { services, snapshot: Arc::new(compiled.snapshot) }
    }

    /// What is known of a request that is let in.
    pub fn admit(&self, request: &mut RequestHeader) -> Option<Context> {
        let mut ctx = Context::new(Arc::clone(&self.snapshot), self.services.clock.now());
        block_on(admit(request, &mut ctx, "torana-fuzz")).is_ok().then_some(ctx)
    }
}

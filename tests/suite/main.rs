//! Black-box tests: start the built program on free ports, talk to it over sockets, look at what a recording upstream saw.
#![expect(unreachable_pub, reason = "a test binary has no callers outside")]

#[cfg(test)]
mod support;

#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod observation;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod upstream;

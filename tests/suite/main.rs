//! Black-box tests: start the built program on free ports, talk to it over sockets, look at what a recording upstream saw.

mod support;

mod cli;
mod config;
mod errors;
mod observation;
mod policies;
mod reload;
mod routing;
mod upstream;

//! What runs: one compiled snapshot, swapped as a whole, and the state that survives the swap.

mod build;
mod carry;
mod snapshot;

pub use self::{
    build::{Build, Ready, Services, Task},
    carry::Carry,
    snapshot::{Action, Compiled, Route, Snapshot},
};

//! What happens when there is too much of something, or something that the gateway leans on is gone: what is new is
//! refused, what runs goes on, and afterwards everything is as before.

mod gone;
mod room;

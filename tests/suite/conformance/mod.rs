//! What standards say, section by section.

mod http2;

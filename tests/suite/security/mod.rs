//! What an attacker sends, row by row; names begin with the row.

mod http1;
mod http2;

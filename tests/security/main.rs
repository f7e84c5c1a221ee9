//! A NATS server with the users that `coordinator auth` makes: who may do what, and a mesh that works under it.

#![allow(clippy::unwrap_used)]

mod forged;
mod guard;
mod matrix;
mod roles;
mod secrets;
mod tls;

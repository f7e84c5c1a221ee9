//! The mesh in containers, of images that the tests build themselves. Where there is no Docker they say `SKIPPED`, and
//! on CI they fail.

#![allow(clippy::unwrap_used)]

mod broker;
mod cluster;
mod local;
mod oracle;
mod scaling;

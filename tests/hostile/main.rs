//! Hostile parties: what each may try, and the outcome.

#[path = "../support/mod.rs"]
mod support;

mod trust_domains;

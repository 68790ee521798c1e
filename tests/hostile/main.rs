//! Hostile parties: what each may try, and the outcome.

#[path = "../support/mod.rs"]
mod support;

mod foreign_text;
mod gateway;
mod operators;
mod responses;
mod settings;
mod trust_domains;

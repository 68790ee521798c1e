//! Reasons why a transaction was not committed.

use std::any::Any;

use crate::runtime::text::Cleaned;
use crate::store::objects::StoreError;

/// Violated rule of the store, error of the engine, or panic of the engine or this program.
pub(super) enum Failure {
    Rule(StoreError),
    Engine(Box<redb::Error>),
    Panic(String),
}

impl Failure {
    /// The failure of work that panicked with this payload.
    pub(super) fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = Cleaned(text.unwrap_or("a panic without text"));
        Self::Panic(format!("the engine or this program stopped unexpectedly: {text}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Rule(error)
    }
}

macro_rules! engine_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Engine(Box::new(error.into()))
            }
        })*
    };
}

engine_errors!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

//! Reasons why a transaction was not committed.

use crate::store::objects::StoreError;

/// Violated rule of the store, or error of the engine.
pub(super) enum Failure {
    Rule(StoreError),
    Engine(Box<redb::Error>),
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

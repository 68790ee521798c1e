//! Stored objects, their changes, and the errors of the store.

/// Kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// `mutualTlsOauthConfiguration`.
    MutualTlsOauthConfigurations,
    /// `certificateBasedApplicationConfiguration`, including its authorities.
    ApplicationConfigurations,
    /// `deviceTemplate`.
    DeviceTemplates,
    /// `device`.
    Devices,
}

impl Collection {
    pub(super) const ALL: [Self; 4] = [
        Self::MutualTlsOauthConfigurations,
        Self::ApplicationConfigurations,
        Self::DeviceTemplates,
        Self::Devices,
    ];

    /// Name of the collection in both engines.  Part of the storage format: it must not change.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MutualTlsOauthConfigurations => "mutualTlsOauthConfigurations",
            Self::ApplicationConfigurations => "certificateBasedApplicationConfigurations",
            Self::DeviceTemplates => "deviceTemplates",
            Self::Devices => "devices",
        }
    }
}

/// Object as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Unique in the collection.
    pub id: String,
    /// Version of the last write.  A version is never reused, not even for another object.
    pub version: u64,
    /// Content, which the store does not interpret.
    pub body: Vec<u8>,
}

/// Last change of one object, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Id of the object.
    pub id: String,
    /// Version of the change.
    pub version: u64,
    /// Current content of the object; `None` for a removal.
    pub body: Option<Vec<u8>>,
}

/// Bytes of bodies at which a read ends.  The object that reaches them is its last one.
pub const READ_BYTES: usize = 8 * 1024 * 1024;

/// Returns true if a read of at most `limit` objects, which returned bodies of these lengths, ended at one
/// of its bounds.
pub(crate) fn may_have_more(lengths: impl Iterator<Item = usize>, limit: usize) -> bool {
    let (count, bytes) =
        lengths.fold((0, 0), |(n, sum), length| (n + 1, length.saturating_add(sum)));
    count >= limit || bytes >= READ_BYTES
}

/// Part of a collection's history that a reader has already read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// The reader knows every change up to this version.
    pub seen: u64,
    /// The reader started after this version, so that earlier removals do not concern it.
    pub removals: u64,
}

impl Since {
    /// Position of a reader that knows everything up to `version`.
    pub fn version(version: u64) -> Self {
        Self { seen: version, removals: version }
    }

    /// Returns the version after which the reader needs every removal.
    pub(super) fn removals(self) -> u64 {
        self.removals.max(self.seen)
    }
}

/// Reasons why the store did not perform an operation.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist.
    #[error("the object does not exist")]
    Missing,
    /// The object does not have the expected version.
    #[error("the object has changed: its version is {found}, not {expected}")]
    Changed {
        /// Version that the caller expected.
        expected: u64,
        /// Stored version.
        found: u64,
    },
    /// An object with the same id exists.
    #[error("an object with this id exists")]
    Exists,
    /// The collection has as many objects as allowed; the limit is given.
    #[error("the collection already has the maximum of {0} objects")]
    Full(u64),
    /// Another object, whose id is given, refers to this one.
    #[error("`{0}` refers to the object")]
    Referenced(String),
    /// The removals since this version are no longer stored, or the version is not one of this store.
    #[error("the changes since version {0} are no longer available")]
    HistoryExpired(u64),
    /// The operation is not possible with this store or this backup; the reason is given.
    #[error("{0}")]
    Refused(String),
    /// The database does not accept changes.
    #[error(
        "the database is read-only (a standby server, or default_transaction_read_only is set): changes \
         are refused, and reads are served"
    )]
    ReadOnly,
    /// The disk or the database failed.  The operation can be retried.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

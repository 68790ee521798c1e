//! What is stored, and why something was not.

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// `mutualTlsOauthConfiguration`.
    MutualTlsOauthConfigurations,
    /// `certificateBasedApplicationConfiguration`, with its authorities inside.
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

    /// What it is called where it is stored; never changed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MutualTlsOauthConfigurations => "mutualTlsOauthConfigurations",
            Self::ApplicationConfigurations => "certificateBasedApplicationConfigurations",
            Self::DeviceTemplates => "deviceTemplates",
            Self::Devices => "devices",
        }
    }
}

/// One object as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id, unique in its collection.
    pub id: String,
    /// Changes with every write, and is never used again, not even for another object.
    pub version: u64,
    /// The object.
    pub body: Vec<u8>,
}

/// The last that has happened to one object, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The object's id.
    pub id: String,
    /// The version that the change made.
    pub version: u64,
    /// The object as it is now; `None` for a removal.
    pub body: Option<Vec<u8>>,
}

/// How much of a collection's history a reader has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Every change up to this version is known to the reader.
    pub seen: u64,
    /// Removals up to this version do not concern the reader, who began to read after them.
    pub removals: u64,
}

impl Since {
    /// A reader who knows everything up to `version`.
    pub fn version(version: u64) -> Self {
        Self { seen: version, removals: version }
    }

    /// The first removal that the reader must hear of is after this version.
    pub(super) fn removals(self) -> u64 {
        self.removals.max(self.seen)
    }
}

/// Why an operation was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No object of that id.
    #[error("no such object")]
    Missing,
    /// The object is not of the version that was expected.
    #[error("the object has changed: it is of version {found}, not {expected}")]
    Changed {
        /// What the caller had read.
        expected: u64,
        /// What is stored.
        found: u64,
    },
    /// An object of that id exists.
    #[error("an object of that id exists")]
    Exists,
    /// The collection has as many objects as it may.
    #[error("the collection has {0} objects, as many as it may")]
    Full(u64),
    /// Another object refers to this one.
    #[error("`{0}` refers to it")]
    Referenced(String),
    /// What was removed since then is not remembered, or this store was never there.
    #[error("what has changed since version {0} is not known any longer")]
    Forgotten(u64),
    /// The disk or the database behind the store does not do its work; it may again later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}
